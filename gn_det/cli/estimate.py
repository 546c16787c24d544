"""Estimate the memory of a training step, without training.

gn-det estimate --config mask_rcnn_R50_gn_all.yaml
gn-det estimate --config mask_rcnn_R50_gn_all.yaml --images 2 --budget 8GiB
gn-det estimate --config output/config.yaml --images 1 --size 800x1333 SOLVER.AMP.ENABLED True

The table has a row for each mode of MODEL.GN.MEMORY. docs/performance.md says what they do. The
estimate is for MODEL.DEVICE; it needs no GPU.
"""

import argparse
import re
from dataclasses import asdict

import torch
from tabulate import tabulate

from gn_det.config import images_per_micro_batch
from gn_det.engine import add_options, docstring_parser, positive, read_config_for_model
from gn_det.engine.memory_estimate import CONTEXT, estimate
from gn_det.modeling.activation_checkpointing import MEMORY_MODES

__all__ = ["add_arguments", "build_parser", "main", "run", "table"]

# the columns of the table; one of zeros is left out
COLUMNS = {
    "parameters": "parameters",
    "optimizer": "momentum",
    "saved": "saved",
    "peak": "peak",
    "buckets": "DDP",
    "workspaces": "workspaces",
    "total": "total",
}
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = docstring_parser(__doc__)
    add_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Print the table of the estimates."""
    print(table(run(args)))


def parse_bytes(text: str) -> int:
    """Return the number of bytes that a text means.

    Args:
        text: A size such as "8GiB", "500M" or "11 GB"; K, M and G are powers of 1024.

    Raises:
        argparse.ArgumentTypeError: The text is no size.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([KMG]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 8GiB or 500MiB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 800x1333")
    return int(match[1]), int(match[2])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments, to the parser of ``gn-det estimate`` or of ``tools/benchmark.py``."""
    parser.add_argument(
        "--config",
        "--config-file",
        dest="config",
        required=True,
        metavar="FILE",
        help="a YAML file, or the name of one of gn_det's configs",
    )
    parser.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="size of an image (default: the largest of INPUT.MIN_SIZE_TRAIN x MAX_SIZE_TRAIN)",
    )
    parser.add_argument(
        "--images",
        type=positive,
        help="images in one forward pass of a process (default: SOLVER.IMS_PER_STEP, or where that "
        "is 0 SOLVER.IMS_PER_BATCH shared by SOLVER.REFERENCE_WORLD_SIZE)",
    )
    parser.add_argument(
        "--budget",
        type=parse_bytes,
        metavar="SIZE",
        help="memory of a GPU, such as 8GiB; the first mode that fits in it, beside the GPU's "
        "context, is named",
    )
    add_options(parser)


def run(args: argparse.Namespace) -> dict:
    """Estimate each mode of ``MODEL.GN.MEMORY``.

    Args:
        args: The arguments, see :func:`add_arguments`.

    Returns:
        A record that :func:`table` shows: the config, the images and their size, the bytes of each
        part in each mode, and those of a GPU's context.
    """
    # of the machine that it is for, not of this one
    cfg = read_config_for_model(args.config, args.opts)
    height, width = args.size or (max(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN)
    processes = max(cfg.SOLVER.REFERENCE_WORLD_SIZE, 1)
    images = args.images or images_per_micro_batch(cfg, processes)
    modes = {}
    for mode in MEMORY_MODES:
        cfg.MODEL.GN.MEMORY = mode
        of_mode = estimate(cfg, images, height, width, processes)
        modes[mode] = {**asdict(of_mode), "total": of_mode.total}
    return {
        "benchmark": "estimate",
        "config": args.config,
        "opts": args.opts,
        "images": images,
        "height": height,
        "width": width,
        "budget": args.budget,
        "device": cfg.MODEL.DEVICE,
        "amp": cfg.SOLVER.AMP.ENABLED,
        "processes": processes,
        "context": CONTEXT if torch.device(cfg.MODEL.DEVICE).type == "cuda" else 0,
        "modes": modes,
    }


def table(record: dict) -> str:
    """Return the estimate as text.

    Args:
        record: The record of :func:`run`.
    """
    budget, context, modes = record["budget"], record["context"], record["modes"]
    columns = {k: name for k, name in COLUMNS.items() if any(of[k] for of in modes.values())}
    rows = [[mode, *(f"{of[key] / 2**20:.0f}" for key in columns)] for mode, of in modes.items()]
    size = f"{record['images']} x {record['height']}x{record['width']}"
    lines = [
        f"{record['config']}, images {size} in one forward pass of a process on "
        f"{record['device']}, {record['processes']} process{'es' * (record['processes'] > 1)}, MiB",
        tabulate(rows, ["MODEL.GN.MEMORY", *columns.values()]),
        "saved: kept for backward. peak: activations and gradients. total: all but saved, which is "
        "in peak.",
    ]
    if "buckets" in columns:
        lines.append("DDP: a copy of the gradients.")
    if context:
        lines.append(
            "workspaces: cuBLAS's. A GPU needs more than the total: its context (up to "
            f"{context / 2**20:.0f} MiB), workspaces of cuDNN, and what is lost between the "
            "allocator's blocks."
        )
    if budget:
        fitting = [mode for mode, of in modes.items() if of["total"] + context <= budget]
        beside = f" with {context / 2**20:.0f} MiB for the context" if context else ""
        verdict = f"{fitting[0] if fitting else 'None'} fits in {budget / 2**30:.1f} GiB{beside}."
        if not fitting:
            verdict += f" What makes it smaller, in this order: {', '.join(_smaller(record))}."
        lines.append(verdict)
    return "\n".join(lines)


def _smaller(record: dict) -> list[str]:
    """Return what would take less memory and is not so already."""
    ways = ["SOLVER.IMS_PER_STEP 1"] if record["images"] > 1 else []
    ways += [] if record["amp"] else ["SOLVER.AMP.ENABLED True"]
    return [*ways, "a lower MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "smaller images"]
