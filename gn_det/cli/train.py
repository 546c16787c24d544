"""Train a detector, and evaluate it.

gn-det train --config mask_rcnn_R50_gn_all.yaml --num-gpus 8
gn-det train --config photo_digits_mask_rcnn_R18_gn_all.yaml OUTPUT_DIR output/digits
gn-det train --config FILE --resume
gn-det train --config FILE --eval-only MODEL.WEIGHTS output/model_final.pth
gn-det train --config mask_rcnn_R50_gn_all.py model.roi_heads.num_classes=3
"""

import argparse

from gn_det.engine import Trainer, is_lazy, run, run_lazy, setup, training_parser

__all__ = ["build_parser", "main", "train"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    return training_parser(__doc__)


def main(args: argparse.Namespace) -> None:
    """Train or evaluate, in as many processes as the command line asks for."""
    run(train, args)


def train(args: argparse.Namespace) -> dict | None:
    """Train or evaluate in this process.

    Args:
        args: The arguments, see :func:`build_parser`.

    Returns:
        The results of the last evaluation, by task or by dataset; None where there was none.
    """
    if is_lazy(args.config_file):
        return run_lazy(args)
    cfg = setup(args)
    if args.eval_only:
        return Trainer.evaluate_only(cfg, resume=args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()
