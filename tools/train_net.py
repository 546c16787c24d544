#!/usr/bin/env python
"""Train a detector, and evaluate it.

tools/train_net.py --config configs/mask_rcnn_R50_gn_all.yaml --num-gpus 8
tools/train_net.py --config photo_digits_mask_rcnn_R18_gn_all.yaml OUTPUT_DIR output/digits
tools/train_net.py --config FILE --resume
tools/train_net.py --config FILE --eval-only MODEL.WEIGHTS output/model_final.pth
tools/train_net.py --config mask_rcnn_R50_gn_all.py model.roi_heads.num_classes=3
"""

import argparse

from detectron2.utils import comm

from gn_det.checkpoint import Checkpointer
from gn_det.engine import (
    Trainer,
    by_dataset,
    is_lazy,
    load_to_evaluate,
    record_evaluation,
    run,
    run_lazy,
    setup,
    training_parser,
    verify,
)


def main(args: argparse.Namespace) -> dict:
    """Train or evaluate in this process; returns the results of the last evaluation."""
    if is_lazy(args.config_file):
        return run_lazy(args)
    cfg = setup(args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, cfg=cfg)
        checkpoint = load_to_evaluate(checkpointer, cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            record_evaluation(cfg.OUTPUT_DIR, results, checkpoint)
            verify(cfg, by_dataset(cfg, results))
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    run(main, training_parser(__doc__).parse_args())
