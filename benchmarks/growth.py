"""Growth of a training step's time and of the bytes saved for backward, with pixels, RoIs, images.

Each of the three is varied alone, starting from the same point. Every point is written as soon as
it is measured, so that --resume can continue an interrupted run.
"""

import argparse
import os
from dataclasses import asdict, replace
from typing import Any

from tabulate import tabulate

from gn_det.config import ConfigError

from . import records
from .growth_plot import plot
from .growth_points import AXES, axis_points, distinct, find, slopes
from .train import measure
from .variants import STOCK_FROZENBN, STOCK_GN
from .workload import Setting, Workload, add_setting_arguments

__all__ = ["add_arguments", "run", "table"]

DEFAULT_VARIANTS = f"{STOCK_FROZENBN},{STOCK_GN},lean-fp32,minimal-fp32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``tools/benchmark.py growth``."""
    for name, default, reader, form in (
        ("sizes", "240x320,480x640,640x853,800x1333", _sizes, "HxW,..."),
        ("roi-counts", "128,256,512,1024", _counts, "N,..."),
        ("image-counts", "1,2,4", _counts, "N,..."),
    ):
        parser.add_argument(
            f"--{name}", type=reader, default=default, metavar=form, help="default: %(default)s"
        )
    parser.add_argument(
        "--resume", action="store_true", help="measure only the missing points of --output"
    )
    parser.add_argument("--plot", metavar="FILE.png", help="write a plot to this file")
    add_setting_arguments(parser, variants=DEFAULT_VARIANTS, repeats=3)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every missing point, and write ``args.output`` after each.

    Raises:
        ConfigError: ``--resume`` is given without ``--output``, or the file is of another set-up.
    """
    base = Setting.from_args(args)
    setup = {
        "benchmark": "growth",
        "setting": asdict(base),
        "repeats": args.repeats,
        "warmup": args.warmup,
        "variants": [variant.name for variant in args.variants],
    }
    record = {
        **setup,
        "axes": axis_points(base, args.sizes, args.roi_counts, args.image_counts),
        "points": _saved_points(args.output, setup) if args.resume else [],
    }
    for point in distinct(record["axes"]):
        if find(record, point):
            continue
        workload = Workload(replace(base, **point))
        rows = measure(workload, args.variants, args.repeats, args.warmup)
        record["points"].append({**point, "variants": rows})
        if args.output:
            records.write(record, args.output)
    if args.plot:
        plot(record, args.plot)
    return record


def table(record: dict[str, Any]) -> str:
    """Return two tables, of seconds and of MiB: all points, and the cost of one more unit per axis.

    The cost is the slope of a straight line through the points of an axis, by least squares.
    """
    title = f"Growth of a training step, {record['setting']['config']}"
    seconds = _table(record, "seconds", 1, ".3g")
    saved = _table(record, "saved_bytes", records.MIB, ".4g")
    return (
        f"{title}; seconds, median of {record['repeats']}\n\n{seconds}\n\n"
        f"{title}; MiB saved for backward\n\n{saved}"
    )


def _table(record: dict[str, Any], key: str, unit: float, form: str) -> str:
    names = record["variants"]
    rows = []
    for point in distinct(record["axes"]):
        found = find(record, point)["variants"]
        at = "{images} x {height}x{width}, {rois} RoIs".format(**point)
        rows.append([at, *(found[name][key] / unit for name in names)])
    for axis, slope in slopes(record, key).items():
        rows.append([f"+ one {AXES[axis][0]}", *(slope[name] / unit for name in names)])
    return tabulate(rows, ["", *names], floatfmt=form)


def _saved_points(output: str | None, setup: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the points in the file ``output``, which must be of the same ``setup``."""
    if output is None:
        raise ConfigError("--resume continues with the points in a file: name it with --output.")
    if not os.path.exists(output):
        return []
    saved, here = records.read(output), records.describe()
    now = {**setup, **{key: here[key] for key in ("machine", "torch", "gn_det")}}
    now["setting"]["options"] = list(now["setting"]["options"])  # as in JSON
    for key, value in now.items():
        if saved.get(key) != value:
            raise ConfigError(
                f"--resume: {output} was measured with {key} {saved.get(key)}, not with {value}. "
                "Give another --output, or measure everything again without --resume."
            )
    return saved["points"]


def _sizes(text: str) -> list[tuple[int, int]]:
    """Return (height, width) of each ``HxW``."""
    sizes = [tuple(_counts(size, "x")) for size in text.split(",")]
    if any(len(size) != 2 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH,...")
    return sizes


def _counts(text: str, separator: str = ",") -> list[int]:
    """Return the numbers of a list."""
    numbers = [int(word) if word.isdigit() else 0 for word in text.split(separator)]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} has something other than numbers above 0")
    return numbers
