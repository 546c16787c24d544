"""Loading weights into a model: gn_det's checkpointer and Detectron2's, on the same files."""

import argparse
import logging
import pickle
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from tabulate import tabulate

from gn_det.checkpoint import Checkpointer
from gn_det.engine import load_runnable_config

from .options import add_numbers
from .records import MIB
from .timing import interleave, summary

__all__ = ["add_arguments", "run", "table"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``tools/benchmark.py load``."""
    parser.add_argument(
        "--config",
        default="mask_rcnn_R50_gn_all.yaml",
        metavar="FILE",
        help="config of the model (default: %(default)s)",
    )
    add_numbers(parser, {"repeats": (5, "timed runs of each loader")})


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Load a ``.pth`` and a ``.pkl`` file of the same weights in turn, and return the record."""
    cfg = load_runnable_config(args.config, ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    state = model.state_dict()
    files = {}
    logging.disable(logging.WARNING)  # each load writes log messages
    try:
        with tempfile.TemporaryDirectory() as folder:
            for ending in (".pth", ".pkl"):
                path = Path(folder) / f"model{ending}"
                save(state, path)
                loaders = {
                    "Detectron2": DetectionCheckpointer(model),
                    "gn_det": Checkpointer(model, cfg=cfg),
                }
                works = {name: partial(c.load, str(path)) for name, c in loaders.items()}
                times = interleave(works, args.repeats)
                rows = {name: summary(t) for name, t in times.items()}
                files[ending] = {
                    "bytes": path.stat().st_size,
                    **rows,
                    "ratio": rows["gn_det"]["seconds"] / rows["Detectron2"]["seconds"],
                }
    finally:
        logging.disable(logging.NOTSET)
    return {
        "benchmark": "load",
        "config": args.config,
        "repeats": args.repeats,
        "files": files,
    }


def table(record: dict[str, Any]) -> str:
    """Return a table with a row for each file."""
    rows = [
        [
            ending,
            f"{row['bytes'] / MIB:.0f}",
            f"{row['Detectron2']['seconds']:.3f}",
            f"{row['gn_det']['seconds']:.3f}",
            row["ratio"],
        ]
        for ending, row in record["files"].items()
    ]
    headers = ["file", "MiB", "Detectron2 (s)", "gn_det (s)", "ratio"]
    caption = f"Loading, {record['config']}; median of {record['repeats']}"
    return f"{caption}\n\n{tabulate(rows, headers, floatfmt='.2f')}"


def save(state: dict[str, torch.Tensor], path: Path) -> None:
    """Write a checkpoint like those of training (.pth) or of Detectron2's model zoo (.pkl)."""
    if path.suffix == ".pth":
        torch.save({"model": state}, path)
        return

    arrays = {name: value.numpy() for name, value in state.items()}
    with path.open("wb") as f:
        pickle.dump({"model": arrays, "__author__": "benchmark"}, f)
