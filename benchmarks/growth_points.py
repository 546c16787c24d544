"""The points that :mod:`benchmarks.growth` measures, on axes that cross at one point."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .workload import Setting

__all__ = ["AXES", "POINT", "along", "axis_points", "distinct", "find", "slopes"]

# the coordinates of a point, as in Setting
POINT = ("images", "height", "width", "rois")

# the unit of each axis, and the position of a point on it
AXES = {
    "pixels": ("megapixel per image", lambda p: p["height"] * p["width"] / 1e6),
    "rois": ("RoI per image", lambda p: p["rois"]),
    "images": ("image", lambda p: p["images"]),
}


def axis_points(
    base: Setting,
    sizes: Sequence[tuple[int, int]],
    rois: Sequence[int],
    images: Sequence[int],
) -> dict[str, list[dict[str, int]]]:
    """Return the points along each of :data:`AXES`.

    Args:
        base: The setting where the axes cross.
        sizes: The sizes of images, (height, width) in pixels.
        rois: The numbers of RoIs per image.
        images: The numbers of images per batch.
    """
    at = {key: getattr(base, key) for key in POINT}
    sizes = sorted(sizes, key=lambda size: size[0] * size[1])
    return {
        "pixels": [{**at, "height": height, "width": width} for height, width in sizes],
        "rois": [{**at, "rois": count} for count in sorted(rois)],
        "images": [{**at, "images": count} for count in sorted(images)],
    }


def distinct(axes: dict[str, list[dict[str, int]]]) -> list[dict[str, int]]:
    """Return the points of all axes without duplicates."""
    points: list[dict[str, int]] = []
    for of_axis in axes.values():
        points += [point for point in of_axis if point not in points]
    return points


def find(record: dict[str, Any], point: dict[str, int]) -> dict[str, Any] | None:
    """Return the entry of ``point`` in ``record``, or None if there is none."""
    fitting = (p for p in record["points"] if all(p[key] == point[key] for key in POINT))
    return next(fitting, None)


def along(record: dict[str, Any], axis: str) -> tuple[list[float], list[dict[str, Any]]]:
    """Return the positions on ``axis`` and the variants' rows at each of them."""
    points = record["axes"][axis]
    return [AXES[axis][1](p) for p in points], [find(record, p)["variants"] for p in points]


def slopes(record: dict[str, Any], key: str) -> dict[str, dict[str, float]]:
    """Return ``{axis: {variant: cost of one more unit}}``, by least squares.

    Axes with a single point are left out.

    Args:
        record: The record of :func:`benchmarks.growth.run`.
        key: ``seconds`` or ``saved_bytes``.
    """
    lines = {}
    for axis in record["axes"]:
        x, rows = along(record, axis)
        if len(x) > 1:
            lines[axis] = {
                name: float(np.polyfit(x, [row[name][key] for row in rows], 1)[0])
                for name in record["variants"]
            }
    return lines
