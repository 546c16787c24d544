"""What one annotation can have wrong in itself: its box, its mask, its marks.

Sizes are (width, height) in pixels; None where the image's size is not known, and then nothing is
held against it.
"""

from numbers import Real
from operator import ne
from typing import Any

from .rle import run_lengths

__all__ = [
    "NUMBERS",
    "SLACK",
    "annotation_problems",
    "box_problem",
    "has_mask",
    "is_area",
    "polygon_problem",
    "rle_problem",
]

NUMBERS = {int, float}
HUGE = 1e7  # pixels; no image is that long
SLACK = 1.0  # pixels that a box or polygon may reach out of the image: annotation tools round
_THIN = 1e-5  # Detectron2 drops boxes that are thinner

Size = tuple[int, int] | None


def annotation_problems(annotation: dict, size: Size) -> list[tuple[str, Any]]:
    """Return (kind, what stands there) of all that is wrong, ids and references apart."""
    problems: list[tuple[str, Any]] = []
    box = annotation.get("bbox")
    if kind := box_problem(box, size):
        problems.append((kind, box))
    if has_mask(annotation):
        problems += mask_problems(annotation["segmentation"], size)
    area = annotation.get("area")
    if not is_area(area):
        problems.append(("area", area))
    if "iscrowd" not in annotation:
        problems.append(("crowd-missing", None))
    elif (crowd := annotation["iscrowd"]) not in (0, 1):
        problems.append(("crowd-value", crowd))
    elif crowd:
        problems.append(("crowd", None))
    if annotation.get("ignore", 0) != 0:
        problems.append(("ignore", annotation["ignore"]))
    return problems


def has_mask(annotation: dict) -> bool:
    """Return whether there is a mask; null, [] and {} are none for Detectron2."""
    return bool(annotation.get("segmentation"))


def is_area(value: Any) -> bool:
    """Return whether this can be an area in pixels; NaN cannot."""
    return isinstance(value, Real) and type(value) is not bool and 0 <= value < HUGE * HUGE


def box_problem(box: Any, size: Size) -> str | None:
    """Return the kind of what is wrong with a box, which is to be [x, y, width, height]."""
    if box is None or box == []:
        return "box-missing"
    if type(box) is not list or len(box) != 4 or not set(map(type, box)) <= NUMBERS:
        return "box-format"
    x, y, w, h = box
    if not (-HUGE < x < HUGE and -HUGE < y < HUGE and -HUGE < w < HUGE and -HUGE < h < HUGE):
        return "box-nan"  # NaN is not within any limits
    if w < 0 or h < 0:
        return "box-negative"
    if w <= _THIN or h <= _THIN:
        return "box-zero"
    if size is None:
        return None
    width, height = size
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return "box-away"
    if x < -SLACK or y < -SLACK or x + w > width + SLACK or y + h > height + SLACK:
        return "box-outside"
    return None


def mask_problems(mask: Any, size: Size) -> list[tuple[str, Any]]:
    """Return (kind, what stands there) for a mask, of each polygon where it has several."""
    if isinstance(mask, dict):
        kind = rle_problem(mask, size)
        return [(kind, mask)] if kind else []
    if type(mask) is not list:
        return [("mask-format", mask)]
    if set(map(type, mask)) <= NUMBERS:
        return [("polygon-flat", mask)]
    return [(kind, p) for p in mask if (kind := polygon_problem(p, size))]


def polygon_problem(polygon: Any, size: Size) -> str | None:
    """Return the kind of what is wrong with a polygon, which is to be [x, y, x, y, ...]."""
    if type(polygon) is not list or not set(map(type, polygon)) <= NUMBERS:
        return "polygon-values"
    if len(polygon) % 2:
        return "polygon-odd"
    if len(polygon) < 6:
        return "polygon-points"
    xs, ys = polygon[::2], polygon[1::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    # min and max may miss what stands beside a NaN, which alone differs from itself
    if any(map(ne, polygon, polygon)) or max(right, bottom) > HUGE or min(left, top) < -HUGE:
        return "polygon-nan"
    if left == right or top == bottom:
        return "mask-empty"
    if size is None:
        return None
    width, height = size
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        return "polygon-away"
    if left < -SLACK or top < -SLACK or right > width + SLACK or bottom > height + SLACK:
        if left < -width or top < -height or right > 2 * width or bottom > 2 * height:
            return "polygon-away"
        return "polygon-outside"
    return None


def rle_problem(rle: dict, size: Size) -> str | None:
    """Return the kind of what is wrong with {"size": [height, width], "counts": ...}."""
    stated = rle.get("size")
    if type(stated) is not list or len(stated) != 2 or set(map(type, stated)) != {int}:
        return "rle-size"
    if not all(0 < side < HUGE for side in stated) or (size and stated != [size[1], size[0]]):
        return "rle-size"
    runs = run_lengths(rle.get("counts"))
    if runs is None or runs.sum() != stated[0] * stated[1]:
        return "rle-counts"
    return None if runs[1::2].any() else "mask-empty"
