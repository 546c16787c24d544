"""The dicts of a registered dataset as the records of a COCO json, so that one check does for both.

Detectron2's dicts hold a ``bbox`` in one of several ``BoxMode``s, masks as polygons, RLE or arrays,
and ``category_id`` as the place of a class.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_tools

from .json_reader import Record
from .records import box_problem

__all__ = ["DictRecords"]

_MODES = (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)  # Detectron2 converts no other


class DictRecords:
    """The records of a list of dicts, with the interface of :class:`CocoJson`.

    Args:
        dicts: Detectron2's dataset dicts.
        classes: The names of the classes; None where the metadata have none.

    Attributes:
        encoding: "utf-8".
        counts: The number of records by section; known once an iteration has begun.
    """

    encoding = "utf-8"

    def __init__(self, dicts: Sequence[dict], classes: Sequence[str] | None):
        self._dicts, self._classes = dicts, classes
        self.counts: dict[str, int] = {}

    def __iter__(self) -> Iterator[Record]:
        """Yield images, classes, and then annotations."""
        objects = [a for record in self._dicts for a in record.get("annotations") or ()]
        names = self._classes
        if names is None:  # as many as there are
            places = [place for a in objects if type(place := _plain(a.get("category_id"))) is int]
            names = [str(place) for place in range(max(places, default=-1) + 1)]
        self.counts = {
            "images": len(self._dicts),
            "categories": len(names),
            "annotations": len(objects),
        }
        for place, record in enumerate(self._dicts):
            yield Record("images", place, _image(record, place), ())
        for place, name in enumerate(names):
            yield Record("categories", place, {"id": place, "name": name}, ())
        count = 0
        for place, record in enumerate(self._dicts):
            for annotation in record.get("annotations") or ():
                count += 1
                mode = annotation.get("bbox_mode")
                remarks = () if mode in _MODES else (("box-mode", str(mode)),)
                value = {"id": count, "image_id": place, **_annotation(annotation)}
                yield Record("annotations", count - 1, value, remarks)


def _image(record: dict, place: int) -> dict:
    """Return an image. Its id is its place: in training, nothing uses ``image_id``."""
    image: dict[str, Any] = {"id": place, "file_name": str(record.get("file_name", ""))}
    image.update((side, _plain(record[side])) for side in ("width", "height") if side in record)
    return image


def _annotation(annotation: dict) -> dict:
    """Return box, mask, class and flags as they stand in a json."""
    mask = annotation.get("segmentation")
    if isinstance(mask, np.ndarray):
        rle = mask_tools.encode(np.asfortranarray(mask.astype(bool), dtype=np.uint8))
        mask = {"size": rle["size"], "counts": rle["counts"].decode()}
    elif isinstance(mask, dict):
        counts = mask.get("counts")
        mask = {
            **mask,
            "size": _plain(mask.get("size")),
            "counts": counts.decode("latin-1") if isinstance(counts, bytes) else _plain(counts),
        }
    else:
        mask = _plain(mask)
    found = {
        "category_id": _plain(annotation.get("category_id")),
        "segmentation": mask,
        "iscrowd": _plain(annotation.get("iscrowd", 0)),
        "area": 0,  # nothing reads it
    }
    box = _plain(annotation.get("bbox"))
    corners = annotation.get("bbox_mode") == BoxMode.XYXY_ABS
    if corners and box_problem(box, None) not in ("box-missing", "box-format"):
        left, top, right, bottom = box
        box = [left, top, right - left, bottom - top]
    return {**found, "bbox": box}


def _plain(value: Any) -> Any:
    """Return numbers, tuples and arrays of NumPy as Python's own numbers and lists."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
