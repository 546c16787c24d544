"""The plot of :mod:`benchmarks.growth`: time and memory along each axis."""

from pathlib import Path
from typing import Any

from .growth_points import along
from .records import MIB

__all__ = ["plot"]

LABELS = {
    "pixels": "megapixels per image",
    "rois": "RoIs per image",
    "images": "images per step",
}
ROWS = {"seconds": ("seconds per step", 1), "saved_bytes": ("GiB saved for backward", 1024 * MIB)}


def plot(record: dict[str, Any], path: str | Path) -> None:
    """Plot seconds above bytes, with a column for each axis and a line for each variant.

    Args:
        record: The record of :func:`benchmarks.growth.run`.
        path: The path of the picture. Its folder exists.
    """
    from matplotlib.figure import Figure  # not pyplot, which sets a backend for the process

    figure = Figure(figsize=(10, 6), layout="constrained")
    grid = figure.subplots(len(ROWS), len(LABELS), sharex="col", sharey="row")
    for axes_row, (key, (label, unit)) in zip(grid, ROWS.items()):
        for axes, axis in zip(axes_row, LABELS):
            x, rows = along(record, axis)
            for name in record["variants"]:
                axes.plot(x, [row[name][key] / unit for row in rows], marker="o", label=name)
            axes.grid(alpha=0.3)
            axes.set_xlim(left=0)
        axes_row[0].set_ylabel(label)
        axes_row[0].set_ylim(bottom=0)
    for axes, label in zip(grid[-1], LABELS.values()):
        axes.set_xlabel(label)
    setting = record["setting"]
    figure.suptitle(
        f"{setting['config']}; if not varied: {setting['images']} images of "
        f"{setting['height']}x{setting['width']}, {setting['rois']} RoIs per image"
    )
    lines, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=120)
