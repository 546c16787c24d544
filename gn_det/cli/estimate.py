"""Estimate the memory of a training step in each mode of ``MODEL.GN.MEMORY``, without training.

gn_det/engine/memory_estimate.py says how, and what is left out.
"""

import argparse
import re
from dataclasses import asdict

from tabulate import tabulate

from gn_det.config import images_per_micro_batch
from gn_det.engine import read_config
from gn_det.engine.memory_estimate import estimate
from gn_det.modeling.activation_checkpointing import MEMORY_MODES

__all__ = ["add_arguments", "run", "table"]

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def parse_bytes(text: str) -> int:
    """Return the bytes of "8GiB", "500M" or "11 GB"; K, M and G are powers of 1024.

    Raises:
        argparse.ArgumentTypeError: another text.
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*([KMG]?)(?:i?B)?\s*", text, re.IGNORECASE)
    try:
        number, unit = match.groups() if match else ("", "")
        return int(float(number) * UNITS[unit.upper()])
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 8GiB or 500MiB") from None


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 800x1333")
    return int(match[1]), int(match[2])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--config", required=True, metavar="FILE", help="a YAML file, or a name")
    parser.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="size of an image; default: the largest INPUT.MIN_SIZE_TRAIN x INPUT.MAX_SIZE_TRAIN",
    )
    parser.add_argument(
        "--images",
        type=int,
        help="images in one forward pass of a process; default: SOLVER.IMS_PER_STEP, or where "
        "that is 0 SOLVER.IMS_PER_BATCH shared by SOLVER.REFERENCE_WORLD_SIZE",
    )
    parser.add_argument("--budget", type=parse_bytes, help="say which mode fits in, such as 8GiB")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys")


def run(args: argparse.Namespace) -> dict:
    """Estimate each mode of ``MODEL.GN.MEMORY``."""
    cfg = read_config(args.config, args.opts)  # of the machine that it is for, not of this one
    height, width = args.size or (max(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN)
    processes = max(cfg.SOLVER.REFERENCE_WORLD_SIZE, 1)
    images = args.images or images_per_micro_batch(cfg, processes)
    modes = {}
    for mode in MEMORY_MODES:
        cfg.MODEL.GN.MEMORY = mode
        of_mode = estimate(cfg, images, height, width)
        modes[mode] = {**asdict(of_mode), "total": of_mode.total}
    return {
        "benchmark": "estimate",
        "config": args.config,
        "opts": args.opts,
        "images": images,
        "height": height,
        "width": width,
        "budget": args.budget,
        "modes": modes,
    }


def table(record: dict) -> str:
    """Return the estimate as text."""
    budget = record["budget"]
    headers = ["MODEL.GN.MEMORY", "parameters", "momentum", "saved", "peak", "total"]
    keys = ["parameters", "optimizer", "saved", "peak", "total"]
    rows = [
        [mode, *(f"{b[key] / 2**20:.0f}" for key in keys)] for mode, b in record["modes"].items()
    ]
    size = f"{record['images']} x {record['height']}x{record['width']}"
    lines = [
        f"{record['config']}, images {size} in one forward pass of a process, MiB",
        tabulate(rows, headers),
        "saved: saved for backward. peak: activations and gradients. total: parameters, momentum "
        "and peak, without the context of a GPU and the workspaces of libraries.",
    ]
    if budget:
        fitting = [mode for mode, b in record["modes"].items() if b["total"] <= budget]
        lines.append(
            f"{fitting[0]} fits in {budget / 2**30:.1f} GiB."
            if fitting
            else f"None fits in {budget / 2**30:.1f} GiB. What makes it smaller, in this order: "
            "SOLVER.IMS_PER_STEP 1, SOLVER.AMP.ENABLED True, "
            "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE, smaller images."
        )
    return "\n".join(lines)
