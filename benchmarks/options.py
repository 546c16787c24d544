"""Options that several benchmarks have."""

import argparse

__all__ = ["add_numbers"]


def add_numbers(parser: argparse.ArgumentParser, numbers: dict[str, tuple[int, str]]) -> None:
    """Add ``--NAME N`` for each name with its default and its meaning."""
    for name, (default, meaning) in numbers.items():
        text = f"{meaning} (default: %(default)s)"
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=text)
