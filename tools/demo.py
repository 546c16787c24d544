#!/usr/bin/env python
"""Train a GN Mask R-CNN from random weights on the embedded dataset, evaluate it, and show it.

tools/demo.py                       # four to ten minutes on two CPU cores
tools/demo.py --output-dir FOLDER SOLVER.MAX_ITER 400
"""

import argparse
import os
import time

import torch

from gn_det.config import ConfigError
from gn_det.engine import (
    Trainer,
    add_options,
    cpu_has_bfloat16,
    docstring_parser,
    has_checkpoint,
    run,
    setup,
)
from gn_det.evaluation import draw_predictions, plot_metrics, results_table

CONFIG = "photo_digits_mask_rcnn_R18_gn_all.yaml"


def main(args: argparse.Namespace) -> None:
    """Train, evaluate, draw, and say where everything is."""
    start = time.perf_counter()
    if "OUTPUT_DIR" in args.opts[::2]:
        raise ConfigError("OUTPUT_DIR of the demo is named by --output-dir FOLDER.")
    folder, args.resume = output_folder(args.output_dir)
    args.opts = ["OUTPUT_DIR", folder, *precision(), *args.opts]
    print(f"{'Going on with' if args.resume else 'Training'} {CONFIG} in {folder}")
    cfg = setup(args, verbose=False)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    results = trainer.train()

    name = cfg.DATASETS.TEST[0]
    predictions = os.path.join(folder, "inference", name, "coco_instances_results.json")
    pictures = os.path.join(folder, "predictions.png")
    plot = os.path.join(folder, "training.png")
    draw_predictions(name, predictions, pictures)
    plot_metrics(os.path.join(folder, "metrics.json"), plot)

    minutes = (time.perf_counter() - start) / 60
    print(f"\n{name}, after {cfg.SOLVER.MAX_ITER} iterations, {minutes:.1f} minutes in all")
    print(results_table(results))
    print(f"\ntruth and predictions   {pictures}")
    print(f"losses and AP           {plot}")
    print(f"weights                 {os.path.join(folder, 'model_final.pth')}")
    print(f"metrics                 {os.path.join(folder, 'metrics.json')}")


def precision() -> list[str]:
    """Return the options that turn bfloat16 off where the machine would have to imitate it."""
    slow = not torch.cuda.is_available() and cpu_has_bfloat16() is False
    return ["SOLVER.AMP.ENABLED", "False"] if slow else []


def output_folder(wanted: str) -> tuple[str, bool]:
    """Return the folder to use, and whether it holds a run to go on with.

    A finished run is left alone: the next one goes to FOLDER_2, and so on.
    """
    folder, number = wanted, 1
    while os.path.exists(os.path.join(folder, "model_final.pth")):
        number += 1
        folder = f"{wanted}_{number}"
    return folder, has_checkpoint(folder)


if __name__ == "__main__":
    parser = docstring_parser(__doc__)
    parser.add_argument("--output-dir", default="output/demo", help="default: %(default)s")
    parser.set_defaults(
        config_file=CONFIG, num_gpus=1, num_machines=1, machine_rank=0, dist_url="auto"
    )
    add_options(parser)
    run(main, parser.parse_args())
