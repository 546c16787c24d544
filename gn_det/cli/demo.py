"""Train a small GN Mask R-CNN from scratch, evaluate it, and draw it.

gn-det demo                       # four to ten minutes on two CPU cores
gn-det demo --output-dir FOLDER SOLVER.MAX_ITER 400

The weights start random, and the dataset is made on the spot: nothing is downloaded.
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
    setup,
)
from gn_det.evaluation import draw_predictions, plot_metrics, results_table

__all__ = ["build_parser", "main"]

CONFIG = "photo_digits_mask_rcnn_R18_gn_all.yaml"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = docstring_parser(__doc__)
    parser.add_argument(
        "--output-dir", default="output/demo", metavar="FOLDER", help="default: %(default)s"
    )
    parser.set_defaults(config_file=CONFIG)
    add_options(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Train, evaluate and draw, and print where everything is."""
    start = time.perf_counter()
    if "OUTPUT_DIR" in args.opts[::2]:
        raise ConfigError("OUTPUT_DIR of the demo is named by --output-dir FOLDER.")
    folder, args.resume = output_folder(args.output_dir)
    args.opts = ["OUTPUT_DIR", folder, *precision(), *args.opts]
    print(f"{'Resuming' if args.resume else 'Training'} {CONFIG} in {folder}")
    cfg = setup(args, verbose=False)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    results = trainer.train()

    name = cfg.DATASETS.TEST[0]
    predictions = os.path.join(folder, "inference", name, "coco_instances_results.json")
    pictures = os.path.join(folder, "predictions.png")
    plot = os.path.join(folder, "training.png")
    draw_predictions(name, predictions, pictures, window=cfg.INPUT.WINDOW)
    plot_metrics(os.path.join(folder, "metrics.json"), plot)

    minutes = (time.perf_counter() - start) / 60
    print(f"\n{name}, after {cfg.SOLVER.MAX_ITER} iterations, {minutes:.1f} minutes in all")
    print(results_table(results or {}))
    print(f"\ntruth and predictions   {pictures}")
    print(f"losses and AP           {plot}")
    print(f"weights                 {os.path.join(folder, 'model_final.pth')}")
    print(f"metrics                 {os.path.join(folder, 'metrics.json')}")


def precision() -> list[str]:
    """Return the options that turn bfloat16 off where the CPU does not have it."""
    slow = not torch.cuda.is_available() and cpu_has_bfloat16() is False
    return ["SOLVER.AMP.ENABLED", "False"] if slow else []


def output_folder(wanted: str) -> tuple[str, bool]:
    """Return the folder to use, and whether it holds a run that can be resumed.

    Args:
        wanted: The folder that the user asked for. Where it holds a finished run, the next run goes
            to FOLDER_2, and so on.
    """
    folder, number = wanted, 1
    while os.path.exists(os.path.join(folder, "model_final.pth")):
        number += 1
        folder = f"{wanted}_{number}"
    return folder, has_checkpoint(folder)
