"""The commands: one module a subcommand."""
