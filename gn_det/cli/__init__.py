"""The subcommands of ``gn-det``: each module here is one, under its own name.

A module has a docstring, ``build_parser()`` and ``main(args)``. The docstring is the help: one
line, an empty line, and examples. ``main`` does the work and returns the exit status; None is 0.
``gn_det_command.py``, beside the package, finds the module and calls it.
"""
