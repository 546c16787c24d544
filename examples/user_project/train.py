#!/usr/bin/env python
"""Train GN Mask R-CNN on shapes, and evaluate it. Start from here with a project of your own.

python train.py
python train.py --resume SOLVER.MAX_ITER 800
"""

import argparse
from pathlib import Path

import box_head  # noqa: F401  (registers DropoutBoxHead)
import shapes

from gn_det.engine import Trainer, add_options, argument_parser, run, setup


def main(args: argparse.Namespace) -> dict:
    """Train in this process."""
    shapes.register()
    cfg = setup(args)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    parser = argument_parser(__doc__, config_required=False)
    parser.set_defaults(config_file=str(Path(__file__).with_name("shapes.yaml")))
    parser.add_argument("--resume", action="store_true", help="go on with the run in OUTPUT_DIR")
    add_options(parser)
    run(main, parser.parse_args())
