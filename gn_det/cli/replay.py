"""Repeat a training step that became NaN, and find the module.

gn-det replay output/nonfinite_iter0000123_rank0.pth

The run that failed has written the file; no code is run from it. Infinite numbers are found as
well. A project with modules of its own imports them and calls gn_det.engine.replay(FILE). Exit
status: 0 where all numbers are finite; 1 where one is not; 2 where the file cannot be used.
"""

import argparse

from gn_det.engine import docstring_parser, replay

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = docstring_parser(__doc__)
    parser.add_argument("file", metavar="FILE", help="a nonfinite_iter*.pth of OUTPUT_DIR")
    return parser


def main(args: argparse.Namespace) -> int:
    """Print the losses of each micro-batch, and where the first number is not finite.

    Returns:
        The exit status: 1 where a number is not finite, else 0.
    """
    step, report = replay(args.file)
    print(f"iteration {step.iteration}, seed {step.seed}, loss scale {step.scale:g}")
    for number, losses in enumerate(report.losses, start=1):
        print(f"micro-batch {number}: " + ", ".join(f"{n} {x:.6g}" for n, x in losses.items()))
    if report.location:
        which = "" if report.micro_batch is None else f"Micro-batch {report.micro_batch + 1}: "
        print(f"{which}{report.location}")
        return 1
    print("All losses and gradients are finite here.")
    return 0
