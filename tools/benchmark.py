#!/usr/bin/env python
"""Measure gn_det beside stock Detectron2, in one run, interleaved.

tools/benchmark.py load             # seconds to read R50 GN-all weights into the model
tools/benchmark.py load --repeats 9 --config mask_rcnn_R101_gn_all.yaml
"""

import argparse
import logging
import pickle
import statistics
import tempfile
import time
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from tabulate import tabulate

from gn_det.checkpoint import Checkpointer
from gn_det.model_zoo import get_config


def benchmark_load(args: argparse.Namespace) -> None:
    """Load the same file by Detectron2's checkpointer and by ours, in turn."""
    logging.disable(logging.WARNING)
    cfg = get_config(args.config)
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    state = model.state_dict()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for ending in (".pth", ".pkl"):
            path = Path(folder) / f"model{ending}"
            save(state, path)
            loaders = {
                "Detectron2": DetectionCheckpointer(model),
                "gn_det": Checkpointer(model, cfg=cfg),
            }
            times = {name: [] for name in loaders}
            for _ in range(args.repeats + 1):
                for name, loader in loaders.items():
                    start = time.perf_counter()
                    loader.load(str(path))
                    times[name].append(time.perf_counter() - start)
            medians = {name: statistics.median(t[1:]) for name, t in times.items()}  # [0] warms up
            ratio = medians["gn_det"] / medians["Detectron2"]
            size = path.stat().st_size / 2**20
            rows.append([ending, f"{size:.0f}", *(f"{m:.3f}" for m in medians.values()), ratio])
    headers = ["file", "MiB", "Detectron2 (s)", "gn_det (s)", "ratio"]
    print(f"{args.config}, torch {torch.__version__}, median of {args.repeats}")
    print(tabulate(rows, headers, floatfmt=".2f"))


def save(state: dict[str, torch.Tensor], path: Path) -> None:
    """Write a checkpoint as training does (.pth), or as Detectron2's zoo does (.pkl)."""
    if path.suffix == ".pth":
        torch.save({"model": state}, path)
        return

    arrays = {name: value.numpy() for name, value in state.items()}
    with path.open("wb") as f:
        pickle.dump({"model": arrays, "__author__": "benchmark"}, f)


if __name__ == "__main__":
    description, _, examples = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description,
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    load = commands.add_parser("load", help="loading of weights")
    load.add_argument("--config", default="mask_rcnn_R50_gn_all.yaml", help="default: %(default)s")
    load.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    load.set_defaults(run=benchmark_load)
    args = parser.parse_args()
    args.run(args)
