#!/usr/bin/env python
"""Do a training step again that ended in NaN or infinity, and name the module where it began.

tools/replay.py output/nonfinite_iter0000123_rank0.pth

The run that failed wrote the file. No code is run from it. A project with modules of its own calls
gn_det.engine.replay(FILE) after importing them. Exit status: 1 where numbers are not finite again;
0 where all are; 2 where the file cannot be used.
"""

import argparse

from gn_det.engine import docstring_parser, replay, run


def main(args: argparse.Namespace) -> None:
    """Print the losses of each micro-batch, and what was found."""
    step, finding = replay(args.file)
    print(f"iteration {step.iteration}, seed {step.seed}, loss scale {step.scale:g}")
    for gpu, losses in zip(step.micro_batch_ids, finding.losses):
        print(f"virtual GPU {gpu}: " + ", ".join(f"{n} {x:.6g}" for n, x in losses.items()))
    if finding.place:
        number = "" if finding.batch is None else f"Micro-batch {finding.batch + 1}: "
        print(f"{number}{finding.place}")
        raise SystemExit(1)
    print("All losses and gradients are finite here.")


if __name__ == "__main__":
    parser = docstring_parser(__doc__)
    parser.add_argument("file", metavar="FILE", help="nonfinite_iter*.pth of OUTPUT_DIR")
    parser.set_defaults(num_gpus=1, num_machines=1, machine_rank=0, dist_url="auto")
    run(main, parser.parse_args())
