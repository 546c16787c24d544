#!/usr/bin/env python
"""Train GN Mask R-CNN on shapes, and evaluate it. Start your own project from this file.

python train.py
python train.py --resume SOLVER.MAX_ITER 800
python train.py --eval-only MODEL.WEIGHTS output/model_best.pth
"""

import argparse
from pathlib import Path

import box_head  # noqa: F401  (registers DropoutBoxHead)
import shapes

from gn_det.engine import Trainer, run, setup, training_parser


def main(args: argparse.Namespace) -> dict | None:
    """Train or evaluate in this process."""
    shapes.register()
    cfg = setup(args)
    if args.eval_only:
        return Trainer.evaluate_only(cfg, resume=args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    parser = training_parser(__doc__, config_required=False)
    parser.set_defaults(config_file=str(Path(__file__).with_name("shapes.yaml")))
    run(main, parser.parse_args())
