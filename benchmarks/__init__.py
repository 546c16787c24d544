"""What tools/benchmark.py measures: a module a subcommand, and what they share."""
