"""What one record of a COCO json can have wrong by itself: its ids, an image, an annotation.

Sizes are (width, height) in pixels. Where an image's size is unknown (None), nothing is compared
with it. Kinds are the keys of :data:`gn_det.data.checks.kinds.KINDS`.
"""

import re
from numbers import Real
from operator import ne
from typing import Any, TypeGuard

from .box_evidence import box_and_mask_problem, is_fraction
from .rle import rle_extent, run_lengths

__all__ = [
    "MAX_ID",
    "NUMBERS",
    "annotation_problems",
    "box_problem",
    "has_mask",
    "id_problem",
    "image_problems",
    "is_area",
    "mask_extent",
    "mask_problems",
    "polygon_problem",
    "rle_problem",
    "whole",
]

NUMBERS = {int, float}
MAX_SIDE = 1_000_000  # pixels of an image
MAX_COORDINATE = 1e7  # pixels; no image is that long
SLACK = 1.0  # pixels that a box or polygon may reach out of the image: annotation tools round
_THIN = 1e-5  # Detectron2 drops boxes that are thinner
MAX_ID = 2**63  # numbers of 64 bits
_MAX_EXACT = 2**53  # a larger float may have been another id
_NO_FORM = {"box-outside": {"box-loose"}, "box-away": {"box-loose", "box-mask"}}
_WHOLE = re.compile(r"(-?[0-9]{1,19})(\.0*)?")
# in no file's name; a surrogate is half a character
_NO_NAME = re.compile("[\0\ud800-\udfff]")

Size = tuple[int, int] | None


def id_problem(value: Any) -> str | None:
    """Check an id, which has to be a whole number.

    Args:
        value: The id.

    Returns:
        "missing" for what cannot be an id, "id-text" for text or 3.0, None for a good one.
    """
    if type(value) is int:
        return None if -MAX_ID <= value < MAX_ID else "missing"
    text = type(value) is str and value
    return "id-text" if text or type(whole(value)) is int else "missing"


def whole(value: Any) -> Any:
    """Return the whole number that "12", "12.0" or 12.0 means; anything else as it is."""
    if type(value) is float and value.is_integer() and abs(value) < _MAX_EXACT:
        return int(value)
    # int() would take 1_000 as well
    if type(value) is str and len(value) < 50 and (digits := _WHOLE.fullmatch(value.strip())):
        number = int(digits[1])
        return number if -MAX_ID <= number < MAX_ID else value
    return value


def image_problems(image: dict) -> list[tuple[str, Any]]:
    """Return (kind, value) for all that is wrong with the record of an image."""
    problems = []
    if kind := id_problem(image.get("id")):
        problems.append((kind if kind == "id-text" else "image-id", image.get("id")))
    name = image.get("file_name")
    if not isinstance(name, str) or not name.strip() or _NO_NAME.search(name):
        problems.append(("image-name", name))
    sides: list[Any] = [image.get("width"), image.get("height")]
    if not all(type(n) in NUMBERS and 0 < n <= MAX_SIDE and n == int(n) for n in sides):
        problems.append(("image-size", sides))
    elif float in map(type, sides):
        problems.append(("image-number", sides))
    return problems


def annotation_problems(annotation: dict, size: Size) -> list[tuple[str, Any]]:
    """Return (kind, value) for all that is wrong, except for ids and references.

    Args:
        annotation: The record.
        size: The size of its image.
    """
    problems: list[tuple[str, Any]] = []
    box: Any = annotation.get("bbox")
    of_box, found = box_problem(box, size), box
    if has_mask(annotation):
        mask = annotation["segmentation"]
        wrong = mask_problems(mask, size)
        problems += wrong
        sound = {kind for kind, _ in wrong} <= {"polygon-outside"}
        comparable = of_box in (None, *_NO_FORM) and not annotation.get("iscrowd")
        if sound and comparable:
            extent = mask_extent(mask)
            by_mask = box_and_mask_problem(box, extent, size)
            # what is outside is wrong anyway, if the mask does not show why
            if by_mask and (of_box is None or by_mask not in _NO_FORM[of_box]):
                left, top, right, bottom = extent
                spans = [round(v, 2) for v in (left, top, right - left, bottom - top)]
                short = [round(v, 4) for v in box]
                of_box, found = by_mask, f"{short}, but the mask spans {spans}"
    if of_box:
        problems.insert(0, (of_box, found))
    area = annotation.get("area")
    if not is_area(area):
        problems.append(("area", repr(area)))
    if "iscrowd" not in annotation:
        problems.append(("crowd-missing", None))
    elif (crowd := annotation["iscrowd"]) not in (0, 1):
        problems.append(("crowd-value", repr(crowd)))
    elif crowd:
        problems.append(("crowd", None))
    if annotation.get("ignore", 0) != 0:
        problems.append(("ignore", repr(annotation["ignore"])))
    return problems


def has_mask(annotation: dict) -> bool:
    """Return whether there is a mask. For Detectron2, null, [] and {} are no mask."""
    return bool(annotation.get("segmentation"))


def is_area(value: Any) -> bool:
    """Return whether this can be an area in pixels; NaN cannot."""
    number = isinstance(value, Real) and type(value) is not bool
    return number and 0 <= value < MAX_COORDINATE * MAX_COORDINATE


def box_problem(box: Any, size: Size) -> str | None:
    """Return the kind of what is wrong with a box, which should be [x, y, width, height].

    Args:
        box: The box.
        size: The size of its image.
    """
    if box is None or box == []:
        return "box-missing"
    if not _numbers(box) or len(box) != 4:
        return "box-format"
    x, y, w, h = box
    most = MAX_COORDINATE
    if not (-most < x < most and -most < y < most and -most < w < most and -most < h < most):
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


def mask_extent(mask: list[list[float]] | dict) -> tuple[float, float, float, float]:
    """Return the left, top, right and bottom of a mask that has no problem, in pixels.

    Args:
        mask: A list of polygons, or an RLE.
    """
    if isinstance(mask, dict):
        return rle_extent(mask)
    xs, ys = [x for p in mask for x in p[::2]], [y for p in mask for y in p[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def mask_problems(mask: Any, size: Size) -> list[tuple[str, Any]]:
    """Return (kind, value) for a mask; for each polygon where it has several.

    Args:
        mask: A list of polygons, or an RLE.
        size: The size of its image.
    """
    if isinstance(mask, dict):
        kind = rle_problem(mask, size)
        return [(kind, mask)] if kind else []
    if type(mask) is not list:
        return [("mask-format", mask)]
    if _numbers(mask):
        return [("polygon-flat", mask)]
    return [(kind, p) for p in mask if (kind := polygon_problem(p, size))]


def polygon_problem(polygon: Any, size: Size) -> str | None:
    """Return the kind of what is wrong with a polygon, which should be [x, y, x, y, ...].

    Args:
        polygon: The polygon.
        size: The size of its image.
    """
    if not _numbers(polygon):
        return "polygon-values"
    if len(polygon) % 2:
        return "polygon-odd"
    if len(polygon) < 6:
        return "polygon-points"
    xs, ys = polygon[::2], polygon[1::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    most = MAX_COORDINATE
    # min and max may miss the numbers beside a NaN, which alone differs from itself
    if any(map(ne, polygon, polygon)) or max(right, bottom) > most or min(left, top) < -most:
        return "polygon-nan"
    if left == right or top == bottom:
        return "mask-empty"
    # most have three points at their start: a set of all takes three times as long
    if len(set(zip(xs[:3], ys[:3]))) < 3 and len(set(zip(xs, ys))) < 3:
        return "polygon-points"
    if size is None:
        return None
    width, height = size
    if right <= 1 and bottom <= 1 and left >= 0 and top >= 0 and is_fraction(polygon, size):
        return "polygon-relative"
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        return "polygon-away"
    if left < -SLACK or top < -SLACK or right > width + SLACK or bottom > height + SLACK:
        if left < -width or top < -height or right > 2 * width or bottom > 2 * height:
            return "polygon-away"
        return "polygon-outside"
    return None


def _numbers(value: Any) -> TypeGuard[list[float]]:
    return type(value) is list and set(map(type, value)) <= NUMBERS


def rle_problem(rle: dict, size: Size) -> str | None:
    """Return the kind of what is wrong with {"size": [height, width], "counts": ...}.

    Args:
        rle: The mask as run lengths.
        size: The size of its image.
    """
    if not rle.keys() & {"size", "counts"}:
        return "mask-format"
    stated = rle.get("size")
    if type(stated) is not list or len(stated) != 2 or set(map(type, stated)) != {int}:
        return "rle-size"
    if not all(0 < side < MAX_COORDINATE for side in stated):
        return "rle-size"
    if size and stated != [size[1], size[0]]:
        return "rle-size"
    runs = run_lengths(rle.get("counts"))
    if runs is None or runs.sum() != stated[0] * stated[1]:
        return "rle-counts"
    return None if runs[1::2].any() else "mask-empty"
