"""Command line options that several benchmarks share."""

import argparse

__all__ = ["add_numbers"]


def add_numbers(parser: argparse.ArgumentParser, numbers: dict[str, tuple[int, str]]) -> None:
    """Add an option ``--NAME N`` for each number.

    Args:
        parser: The parser of a subcommand.
        numbers: The default and the help text of each option, by name.
    """
    for name, (default, meaning) in numbers.items():
        text = f"{meaning} (default: %(default)s)"
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=text)
