"""What ``--fix`` does to one annotation: a fix for each kind of problem, until none is left."""

from collections.abc import Callable
from typing import Any

from pycocotools import mask as mask_tools

from .records import (
    NUMBERS,
    annotation_problems,
    has_mask,
    mask_problems,
    polygon_problem,
)

__all__ = ["fix_annotation", "object_area"]

Size = tuple[int, int]
_ROUNDS = 8  # a fix may uncover the next problem: no box, then a box outside the image


class _NotFixable(Exception):
    """The annotation has to be removed."""


def fix_annotation(annotation: dict, size: Size) -> tuple[dict | None, list[str]]:
    """Fix box, mask, area and ``iscrowd`` of an annotation, in place.

    Args:
        annotation: The record. Its ids are good.
        size: The size (width, height) of its image in pixels.

    Returns:
        The annotation, or None where it has to be removed; and the kinds of the problems that were
        fixed. Of a removed annotation, the last kind is the reason.
    """
    fixed: list[str] = []
    for _ in range(_ROUNDS):
        kinds = {kind for kind, _ in annotation_problems(annotation, size)} & _FIXES.keys()
        if not kinds:
            return annotation, fixed
        # in the order of _FIXES: masks come before boxes, which are computed from them
        kind = next(kind for kind in _FIXES if kind in kinds)
        fixed.append(kind)
        try:
            _FIXES[kind](annotation, size)
        except _NotFixable:
            return None, fixed
    return None, fixed


def object_area(annotation: dict, size: Size) -> float:
    """Return the area of an annotation's mask, as pycocotools counts it; without one, of its box.

    Args:
        annotation: An annotation whose mask or box has no problem.
        size: The size (width, height) of its image in pixels.

    Returns:
        The area in pixels.
    """
    if not has_mask(annotation):
        return annotation["bbox"][2] * annotation["bbox"][3]
    mask = annotation["segmentation"]
    if isinstance(mask, dict):
        return int(mask_tools.area(_encoded(mask)))
    return int(mask_tools.area(mask_tools.merge(mask_tools.frPyObjects(mask, size[1], size[0]))))


def _remove(annotation: dict, size: Size) -> None:
    raise _NotFixable


def _box_of_mask(annotation: dict, size: Size) -> None:
    mask = annotation["segmentation"] if has_mask(annotation) else []
    if not mask or mask_problems(mask, size):
        raise _NotFixable
    if isinstance(mask, dict):
        annotation["bbox"] = [float(v) for v in mask_tools.toBbox(_encoded(mask))]
    else:
        xs, ys = [x for p in mask for x in p[::2]], [y for p in mask for y in p[1::2]]
        annotation["bbox"] = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _box_as_numbers(annotation: dict, size: Size) -> None:
    box = annotation["bbox"]
    numbers = _as_numbers(box) if isinstance(box, list) and len(box) == 4 else None
    if numbers is None:
        _box_of_mask(annotation, size)
    else:
        annotation["bbox"] = numbers


def _clip_box(annotation: dict, size: Size) -> None:
    x, y, w, h = annotation["bbox"]
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + w, size[0]), min(y + h, size[1])
    annotation["bbox"] = [left, top, right - left, bottom - top]


def _polygons_as_list(annotation: dict, size: Size) -> None:
    annotation["segmentation"] = [annotation["segmentation"]]


def _fix_polygons(annotation: dict, size: Size) -> None:
    mask = annotation["segmentation"]
    if isinstance(mask, dict):  # an RLE that covers nothing
        raise _NotFixable
    polygons = []
    for polygon in mask:
        if polygon_problem(polygon, size) == "polygon-values" and isinstance(polygon, list):
            polygon = _as_numbers(polygon)
        if polygon_problem(polygon, size) == "polygon-outside":
            polygon = [min(max(v, 0), size[i % 2]) for i, v in enumerate(polygon)]
        if polygon_problem(polygon, size) is None:
            polygons.append(polygon)
    if not polygons:
        raise _NotFixable
    annotation["segmentation"] = polygons
    annotation.pop("area", None)  # it was the area of the old polygons


def _drop_mask(annotation: dict, size: Size) -> None:
    del annotation["segmentation"]


def _plain_crowd(annotation: dict, size: Size) -> None:
    meant = {"0": 0, "1": 1, "false": 0, "true": 1}.get(str(annotation["iscrowd"]).strip().lower())
    if meant is None and annotation["iscrowd"] is not None:
        raise _NotFixable
    annotation["iscrowd"] = meant or 0


def _no_crowd(annotation: dict, size: Size) -> None:
    annotation["iscrowd"] = 0


def _area(annotation: dict, size: Size) -> None:
    annotation["area"] = object_area(annotation, size)


def _encoded(rle: dict) -> dict:
    if isinstance(rle["counts"], list):
        return mask_tools.frPyObjects(rle, *rle["size"])
    return rle


def _as_numbers(values: list) -> list | None:
    """Return the values as numbers, texts such as "1.5" included; None where one is no number."""
    numbers: list[Any] = []
    for value in values:
        if isinstance(value, str) and len(value) < 40:
            try:
                value = float(value)
            except ValueError:
                return None
        if type(value) not in NUMBERS:
            return None
        numbers.append(value)
    return numbers


_FIXES: dict[str, Callable[[dict, Size], None]] = {
    "ignore": _remove,
    "rle-size": _remove,
    "rle-counts": _remove,
    "mask-format": _drop_mask,
    "polygon-flat": _polygons_as_list,
    **dict.fromkeys(
        (
            *("polygon-values", "polygon-odd", "polygon-points", "polygon-nan"),
            *("polygon-away", "polygon-outside", "mask-empty"),
        ),
        _fix_polygons,
    ),
    "box-format": _box_as_numbers,
    **dict.fromkeys(("box-missing", "box-nan", "box-negative", "box-away"), _box_of_mask),
    "box-outside": _clip_box,
    "box-zero": _remove,
    "crowd-value": _plain_crowd,
    "crowd-missing": _no_crowd,
    "area": _area,
}
