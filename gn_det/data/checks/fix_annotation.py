"""What ``--fix`` does to one annotation: a fix for each kind of problem, until none is left."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from pycocotools import mask as mask_tools

from .plain_shapes import encoded_rle, read_box, read_mask
from .records import (
    NUMBERS,
    annotation_problems,
    box_problem,
    has_mask,
    mask_extent,
    mask_problems,
)
from .report import shown

__all__ = ["Fix", "fix_annotation", "object_area"]

Size = tuple[int, int]
_ROUNDS = 8  # a fix may uncover the next problem: no box, then a box outside the image
# the kinds whose fix has a meaning only where the numbers are x, y, width, height in pixels
_OF_PIXELS = {"box-negative", "box-zero", "box-away", "box-outside"}
_OF_PIXELS |= {"polygon-away", "polygon-outside"}


class Fix(NamedTuple):
    """One change.

    Attributes:
        kind: The kind of problem, a key of ``KINDS``.
        change: What was done, with the value before and after.
    """

    kind: str
    change: str


class _NotFixable(Exception):
    """The annotation has to be removed."""


def fix_annotation(
    annotation: dict, size: Size, *, unmeant: Collection[bool] = ()
) -> tuple[dict | None, list[Fix]]:
    """Fix box, mask, area and ``iscrowd`` of an annotation, in place.

    Args:
        annotation: The record. Its ids are good.
        size: The size (width, height) of its image in pixels.
        unmeant: Whether the boxes of the file that have a mask (True) or none (False) are of
            another form. They stay as they are, because nobody knows what they mean.

    Returns:
        The annotation, or None where it has to be removed; and what was fixed. Of a removed
        annotation, the last kind is the reason.
    """
    fixed: list[Fix] = []
    for _ in range(_ROUNDS):
        kinds = {kind for kind, _ in annotation_problems(annotation, size)} & _FIXES.keys()
        if has_mask(annotation) in unmeant:
            kinds -= _OF_PIXELS
        if not kinds:
            return annotation, fixed
        # in the order of _FIXES: masks come before boxes, which are computed from them
        kind = next(kind for kind in _FIXES if kind in kinds)
        before = dict(annotation)
        try:
            _FIXES[kind](annotation, size)
        except _NotFixable:
            return None, [*fixed, Fix(kind, "removed")]
        fixed.append(Fix(kind, _changes(before, annotation)))
    return None, [*fixed, Fix(fixed[-1].kind, "removed")]


def _changes(before: dict, after: dict) -> str:
    """Return "bbox [1, 2, 3, 4] is now [1, 2, 2, 2]" for each key that was changed."""
    texts = []
    for key in ("segmentation", "bbox", "iscrowd", "ignore", "area"):
        old, new = before.get(key), after.get(key)
        if key == "segmentation" and old and not new:
            texts.append(f"the mask {shown(repr(old), 100)} is removed, the box is kept")
        elif (key in before) != (key in after) or repr(old) != repr(new):
            was = shown(repr(old), 100) if key in before else "missing"
            now = shown(repr(new), 100) if key in after else "left out"
            texts.append(f"{key} {was} is now {now}")
    return ", ".join(texts)


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
        return int(mask_tools.area(encoded_rle(mask)))
    return int(mask_tools.area(mask_tools.merge(mask_tools.frPyObjects(mask, size[1], size[0]))))


def _remove(annotation: dict, size: Size) -> None:
    raise _NotFixable


def _fix_mask(annotation: dict, size: Size) -> None:
    box = annotation.get("bbox")
    sound = None if box_problem(box, size) else box
    mask = read_mask(annotation["segmentation"], size, sound)
    if mask is None:
        del annotation["segmentation"]
    else:
        annotation["segmentation"] = mask
    annotation.pop("area", None)  # it was the area of the old mask


def _box_of_mask(annotation: dict, size: Size) -> None:
    mask = annotation["segmentation"] if has_mask(annotation) else []
    if not mask or mask_problems(mask, size):
        raise _NotFixable
    left, top, right, bottom = mask_extent(mask)
    annotation["bbox"] = [left, top, right - left, bottom - top]


def _fix_box_format(annotation: dict, size: Size) -> None:
    box = read_box(annotation["bbox"])
    if box is None:
        _box_of_mask(annotation, size)
    else:
        annotation["bbox"] = box


def _fix_negative(annotation: dict, size: Size) -> None:
    if has_mask(annotation):
        _box_of_mask(annotation, size)
        return
    x, y, w, h = annotation["bbox"]  # from its lower right corner to the upper left one
    box = [min(x, x + w), min(y, y + h), abs(w), abs(h)]
    if box_problem(box, size):
        raise _NotFixable
    annotation["bbox"] = box


def _clip_box(annotation: dict, size: Size) -> None:
    x, y, w, h = annotation["bbox"]
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + w, size[0]), min(y + h, size[1])
    annotation["bbox"] = [left, top, right - left, bottom - top]


_FLAGS = {
    **dict.fromkeys(("0", "0.0", "false", "no", "none", "null", ""), 0),
    **dict.fromkeys(("1", "1.0", "true", "yes"), 1),
}


def _flag(value: Any) -> int | None:
    """Return the 0 or 1 that a value means."""
    if isinstance(value, list) and len(value) == 1:  # as XML is converted
        return _flag(value[0])
    if type(value) in NUMBERS and value == value:  # Detectron2 takes all but 0 as a crowd
        return int(value != 0)
    return _FLAGS.get(str(value).strip().lower())


def _fix_crowd(annotation: dict, size: Size) -> None:
    meant = _flag(annotation["iscrowd"])
    if meant is None:
        raise _NotFixable
    annotation["iscrowd"] = meant


def _fix_ignore(annotation: dict, size: Size) -> None:
    if _flag(annotation["ignore"]) != 0:
        raise _NotFixable
    del annotation["ignore"]


def _no_crowd(annotation: dict, size: Size) -> None:
    annotation["iscrowd"] = 0


def _area(annotation: dict, size: Size) -> None:
    annotation["area"] = object_area(annotation, size)


_FIXES: dict[str, Callable[[dict, Size], None]] = {
    "ignore": _fix_ignore,
    **dict.fromkeys(
        (
            *("rle-size", "rle-counts", "mask-format", "polygon-flat", "polygon-values"),
            *("polygon-odd", "polygon-points", "polygon-nan", "polygon-relative"),
            *("polygon-away", "polygon-outside", "mask-empty"),
        ),
        _fix_mask,
    ),
    "box-format": _fix_box_format,
    "box-negative": _fix_negative,
    **dict.fromkeys(
        (
            *("box-missing", "box-nan", "box-zero", "box-away", "box-mask"),
            *("box-corners", "box-centre", "box-swapped", "box-relative"),
        ),
        _box_of_mask,
    ),
    "box-outside": _clip_box,
    "crowd-value": _fix_crowd,
    "crowd-missing": _no_crowd,
    "area": _area,
}
