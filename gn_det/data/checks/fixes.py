"""What ``--fix`` does to one annotation: a remedy for each kind, until nothing is left to mend."""

from typing import Any

from pycocotools import mask as mask_tools

from .annotations import (
    NUMBERS,
    annotation_problems,
    has_mask,
    mask_problems,
    polygon_problem,
)

__all__ = ["fix_annotation", "object_area"]

Size = tuple[int, int]
_ROUNDS = 8  # a remedy may uncover the next problem: no box, then a box that reaches out


class _Beyond(Exception):
    """The annotation cannot be mended."""


def fix_annotation(annotation: dict, size: Size) -> tuple[dict | None, list[str]]:
    """Mend box, mask and marks of an annotation, in place.

    Args:
        annotation: a record, whose ids are good.
        size: (width, height) of its image.

    Returns:
        The annotation, None where it has to be removed; and the kinds of what was mended.
    """
    mended: list[str] = []
    for _ in range(_ROUNDS):
        kinds = {kind for kind, _ in annotation_problems(annotation, size)} & _REMEDIES.keys()
        if not kinds:
            return annotation, mended
        # in the order of _REMEDIES: masks before boxes, which are taken from them
        kind = next(kind for kind in _REMEDIES if kind in kinds)
        mended.append(kind)
        try:
            _REMEDIES[kind](annotation, size)
        except _Beyond:
            return None, mended
    return None, mended


def object_area(annotation: dict, size: Size) -> float:
    """Return the pixels of an annotation's mask, as pycocotools counts a detection's; else its box.

    Args:
        annotation: with a mask or box in which nothing is wrong.
        size: (width, height) of its image.
    """
    if not has_mask(annotation):
        return annotation["bbox"][2] * annotation["bbox"][3]
    mask = annotation["segmentation"]
    if isinstance(mask, dict):
        return int(mask_tools.area(_encoded(mask)))
    return int(mask_tools.area(mask_tools.merge(mask_tools.frPyObjects(mask, size[1], size[0]))))


def _remove(annotation: dict, size: Size) -> None:
    raise _Beyond


def _box_of_mask(annotation: dict, size: Size) -> None:
    mask = annotation["segmentation"] if has_mask(annotation) else []
    if not mask or mask_problems(mask, size):
        raise _Beyond
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


def _mend_polygons(annotation: dict, size: Size) -> None:
    mask = annotation["segmentation"]
    if isinstance(mask, dict):  # an RLE that covers nothing
        raise _Beyond
    polygons = []
    for polygon in mask:
        if polygon_problem(polygon, size) == "polygon-values" and isinstance(polygon, list):
            polygon = _as_numbers(polygon)
        if polygon_problem(polygon, size) == "polygon-outside":
            polygon = [min(max(v, 0), size[i % 2]) for i, v in enumerate(polygon)]
        if polygon_problem(polygon, size) is None:
            polygons.append(polygon)
    if not polygons:
        raise _Beyond
    annotation["segmentation"] = polygons
    annotation.pop("area", None)  # no longer right


def _drop_mask(annotation: dict, size: Size) -> None:
    del annotation["segmentation"]


def _plain_crowd(annotation: dict, size: Size) -> None:
    meant = {"0": 0, "1": 1, "false": 0, "true": 1}.get(str(annotation["iscrowd"]).strip().lower())
    if meant is None and annotation["iscrowd"] is not None:
        raise _Beyond
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
    """Return the numbers that texts stand for; None where one does not."""
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


_REMEDIES = {
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
        _mend_polygons,
    ),
    "box-format": _box_as_numbers,
    **dict.fromkeys(("box-missing", "box-nan", "box-negative", "box-away"), _box_of_mask),
    "box-outside": _clip_box,
    "box-zero": _remove,
    "crowd-value": _plain_crowd,
    "crowd-missing": _no_crowd,
    "area": _area,
}
