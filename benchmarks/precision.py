"""Whole trainings in float32 and in bfloat16: do losses and AP agree within the spread of seeds?

Each run has its own process and its own folder below --folder. An interrupted run is resumed, and a
finished run is not repeated. For times see the benchmark ``train``.
"""

import argparse
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import mean
from typing import Any

import torch
from tabulate import tabulate

from benchmarks.whole_run import check_run_folder, settings_of, train_or_resume
from gn_det.engine import add_options
from gn_det.evaluation import read_metrics

from . import records
from .options import add_numbers

__all__ = ["add_arguments", "plot", "run", "table"]

PRECISIONS = {
    "fp32": ["SOLVER.AMP.ENABLED", "False"],
    "bf16": ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16"],
}
METRICS = (("bbox", "AP"), ("bbox", "AP50"), ("segm", "AP"), ("segm", "AP50"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``tools/benchmark.py precision``."""
    parser.add_argument(
        "--config",
        default="photo_digits_mask_rcnn_R18_gn_all.yaml",
        metavar="FILE",
        help="config that is trained (default: %(default)s)",
    )
    parser.add_argument(
        "--folder", default="output/precision", help="folder of the runs (default: %(default)s)"
    )
    add_numbers(parser, {"seeds": (3, "number of seeds: SEED is 1 to N")})
    parser.add_argument("--plot", metavar="FILE.png", help="write a plot of the losses")
    add_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train each seed in each precision, and write ``args.output`` after each run.

    Raises:
        ConfigError: ``args.folder`` holds runs with other options.
    """
    record: dict[str, Any] = {
        "benchmark": "precision",
        "config": args.config,
        "opts": args.opts,
        "runs": [],
    }
    spec = {"config": args.config, "settings": settings_of(args.config)}
    for seed in range(1, args.seeds + 1):
        for precision, options in PRECISIONS.items():
            folder = os.path.join(args.folder, f"{precision}_seed{seed}")
            opts = [*args.opts, *options, "SEED", str(seed)]
            check_run_folder(folder, {**spec, "opts": opts})
            # a new process: loggers and Detectron2's event storage belong to one run
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                threads = torch.get_num_threads()
                results = pool.submit(_train, args.config, opts, folder, threads).result()
            rows = read_metrics(os.path.join(folder, "metrics.json"))
            record["runs"].append(
                {
                    "precision": precision,
                    "seed": seed,
                    "results": results,
                    "losses": {r["iteration"]: r["total_loss"] for r in rows if "total_loss" in r},
                }
            )
            if args.output:
                records.write(record, args.output)
    if args.plot:
        plot(record, args.plot)
    return record


def _train(config: str, opts: list[str], folder: str, threads: int) -> dict[str, dict[str, float]]:
    torch.set_num_threads(threads)
    results = train_or_resume(config, opts, folder)
    return {task: dict(results[task]) for task, _ in METRICS if task in results}


def table(record: dict[str, Any]) -> str:
    """Return a table of AP in each precision: mean, spread and the value of each seed."""
    rows = []
    for task, metric in METRICS:
        for precision in PRECISIONS:
            values = list(_values(record, precision, task, metric))
            if values:
                cells = [mean(values), max(values) - min(values), *values]
                rows.append([f"{task} {metric}", precision, *(f"{x:.1f}" for x in cells)])
    seeds = sorted({run["seed"] for run in record["runs"]})
    headers = ["", "", "mean", "max - min", *(f"seed {seed}" for seed in seeds)]
    return f"{record['config']}\n\n{tabulate(rows, headers, disable_numparse=True)}"


def _values(record: dict[str, Any], precision: str, task: str, metric: str) -> Iterable[float]:
    for entry in record["runs"]:
        if entry["precision"] == precision and task in entry["results"]:
            yield entry["results"][task][metric]


def plot(record: dict[str, Any], path: str) -> None:
    """Plot the loss of every run over its iterations, with a color for each precision."""
    from matplotlib.figure import Figure  # not pyplot, which sets a backend for the process

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for color, precision in zip(("C0", "C1"), PRECISIONS):
        for entry in record["runs"]:
            if entry["precision"] == precision:
                x = [int(iteration) for iteration in entry["losses"]]
                label = precision if entry["seed"] == 1 else None
                axes.plot(x, list(entry["losses"].values()), color, lw=1, alpha=0.7, label=label)
    axes.set(xlabel="iteration", ylabel="total loss (median of 20)", title=record["config"])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
