"""COCO evaluation: the fast scorer and pycocotools, and the time of each step of an evaluation.

score: synthetic annotations and detections of COCO val2017's size, each scorer in its own process.
steps: tools/evaluate.py on some images, split into model, paste, encode and score.
"""

import argparse
import contextlib
import io
import json
import math
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from pycocotools.coco import COCO
from tabulate import tabulate
from tqdm import tqdm

from gn_det.evaluation import METRICS, SCORERS, score
from gn_det.utils import resident_bytes

from .evaluation_steps import STEPS, measure_steps
from .options import add_numbers
from .records import MIB
from .synthetic_coco import synthetic_coco
from .timing import seconds_of, summary

__all__ = ["add_arguments", "measure_scorers", "run", "table"]

PARTS = ("score", "steps")
TASKS = ("bbox", "segm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``tools/benchmark.py eval``."""
    parser.add_argument("--only", choices=PARTS, help="run one part only; both take some minutes")
    numbers = {
        "images": (5000, "synthetic images"),
        "objects": (36_000, "objects in all images"),
        "detections": (500_000, "detections in all images"),
        "seed": (0, "seed of synthetic data"),
        "repeats": (1, "timed runs of each scorer"),
        "step-images": (200, "images of the steps"),
    }
    add_numbers(parser, numbers)
    parser.add_argument(
        "--config",
        default="photo_digits_mask_rcnn_R18_gn_all.yaml",
        metavar="FILE",
        help="config of the steps (default: %(default)s)",
    )
    parser.add_argument(
        "--weights", default="", metavar="FILE", help="weights of that model; random by default"
    )
    parser.add_argument(
        "--dataset",
        default="photo_digits_train",
        metavar="NAME",
        help="dataset of the steps (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run :func:`measure_scorers` and :func:`measure_steps`, and return the record."""
    record: dict[str, Any] = {"benchmark": "eval"}
    if args.only != "steps":
        sizes = (args.images, args.objects, args.detections)
        record["score"] = measure_scorers(*sizes, seed=args.seed, repeats=args.repeats)
    if args.only != "score":
        record["steps"] = measure_steps(args.config, args.dataset, args.step_images, args.weights)
    return record


def measure_scorers(
    images: int, objects: int, detections: int, *, seed: int = 0, repeats: int = 1
) -> dict[str, Any]:
    """Score the same synthetic detections by each scorer, in turn, each time in a new process.

    Args:
        images: The number of images.
        objects: The number of objects in all images.
        detections: The number of detections in all images.
        seed: The seed of :func:`synthetic_coco`.
        repeats: The number of timed runs of each scorer.

    Returns:
        The arguments, and ``tasks``: for "bbox" and "segm" the seconds, results and memory of each
        scorer, and ``ratio``, the seconds of pycocotools divided by those of the fast scorer.
    """
    record: dict[str, Any] = {
        "images": images,
        "objects": objects,
        "detections": detections,
        "seed": seed,
        "repeats": repeats,
        "tasks": {},
    }
    truth, found = synthetic_coco(images, objects, detections, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        files = (Path(folder) / "truth.json", Path(folder) / "results.json")
        for file, content in zip(files, (truth, found)):
            file.write_text(json.dumps(content), "utf-8")
        del truth, found
        runs = [(t, s) for t in TASKS for _ in range(repeats) for s in SCORERS]
        measured_by: dict[tuple[str, str], list[dict]] = {}
        with tqdm(runs, unit="run", disable=None) as bar:
            for task, scorer in bar:
                bar.set_description(f"{task} by {scorer}")
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    work = pool.submit(_score, *files, task, scorer, torch.get_num_threads())
                    measured_by.setdefault((task, scorer), []).append(work.result())
    for task in TASKS:
        rows = {}
        for scorer in SCORERS:
            measured = measured_by[task, scorer]
            rows[scorer] = {**measured[-1], **summary([m.pop("seconds") for m in measured])}
        fast, reference = (rows[scorer]["results"] for scorer in SCORERS)
        gaps = [_gap(fast[key], value) for key, value in reference.items()]
        record["tasks"][task] = {
            **rows,
            "ratio": rows["pycocotools"]["seconds"] / rows["fast"]["seconds"],
            "largest_difference": max(gaps),
        }
    return record


def _gap(a: float, b: float) -> float:
    """Return the difference; infinite if only one is NaN, which ``max`` would ignore."""
    if math.isnan(a) or math.isnan(b):
        return 0.0 if math.isnan(a) and math.isnan(b) else math.inf
    return abs(a - b)


def _score(truth_file: Path, results_file: Path, task: str, scorer: str, threads: int) -> dict:
    """Score two files. Their content stays in memory, as it does after a model's predictions."""
    torch.set_num_threads(threads)
    truth = COCO()
    truth.dataset = json.loads(truth_file.read_text(encoding="utf-8"))
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    found = json.loads(results_file.read_text(encoding="utf-8"))
    results: dict[str, float] = {}
    before = resident_bytes("VmRSS")
    _reset_peak()
    seconds = seconds_of(lambda: results.update(score(truth, found, task, scorer)))
    return {
        "seconds": seconds,
        "results": results,
        "resident_bytes": before,
        "peak_bytes": resident_bytes("VmHWM"),
    }


def _reset_peak() -> None:
    """Reset the process's peak memory, which reading the files has raised."""
    refs = Path("/proc/self/clear_refs")
    if refs.exists():
        refs.write_text("5", encoding="utf-8")


def table(record: dict[str, Any]) -> str:
    """Return the tables of all parts that were measured."""
    parts = []
    if "score" in record:
        parts.append(_score_table(record["score"]))
    if "steps" in record:
        parts.append(_steps_table(record["steps"]))
    return "\n\n".join(parts)


def _score_table(record: dict[str, Any]) -> str:
    rows = []
    for task, of_task in record["tasks"].items():
        for scorer in SCORERS:
            row = of_task[scorer]
            rows.append(
                [
                    task,
                    scorer,
                    f"{row['seconds']:.2f}",
                    f"{of_task['pycocotools']['seconds'] / row['seconds']:.1f}",
                    *(f"{row['results'][metric]:.6f}" for metric in METRICS),
                    f"{row['resident_bytes'] / MIB:.0f}",
                    f"{(row['peak_bytes'] - row['resident_bytes']) / MIB:.0f}",
                ]
            )
    headers = ["", "scorer", "s", "times faster", *METRICS, "MiB before", "MiB added"]
    largest = max(of_task["largest_difference"] for of_task in record["tasks"].values())
    return (
        f"Scoring {record['detections']} synthetic detections of {record['objects']} objects on "
        f"{record['images']} images; median of {record['repeats']}\n\n"
        + tabulate(rows, headers, disable_numparse=True, colalign=["left"] * 2 + ["right"] * 10)
        + f"\n\nlargest difference, of all metrics and classes: {largest:.1e}"
    )


def _steps_table(record: dict[str, Any]) -> str:
    columns = record["seconds"]
    rows = []
    for step in STEPS:
        row = [step]
        for times in columns.values():
            share = times[step] / sum(times.values())
            row += [f"{times[step]:.2f}", f"{share:.0%}"] if step in times else ["", ""]
        rows.append(row)
    rows.append(["all", *(c for t in columns.values() for c in (f"{sum(t.values()):.2f}", ""))])
    headers = ["", *(h for name in columns for h in (f"{name} (s)", "share"))]
    return (
        f"Evaluating {record['config']} on {record['images']} images, "
        f"{record['detections']} detections, {record['different_masks']} different masks\n\n"
        + tabulate(rows, headers, disable_numparse=True, colalign=["left"] + ["right"] * 4)
    )
