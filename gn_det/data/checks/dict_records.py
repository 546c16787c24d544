"""The dicts of a registered dataset as the records of a COCO json, so that one check does for both.

Detectron2's dicts hold a ``bbox`` in one of several ``BoxMode``s, masks as polygons, RLE or arrays,
and ``category_id`` as the place of a class.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_tools

from gn_det.data.errors import DatasetError
from gn_det.data.formats import DICT_FIELDS

from .json_reader import Record
from .records import box_problem

__all__ = ["DictRecords", "refuse_malformed"]

_MODES = (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)  # Detectron2 converts no other


def refuse_malformed(dicts: Sequence[Any]) -> None:
    """Refuse what is no list of dicts with lists of annotations, which are dicts again.

    Args:
        dicts: What the function of a registered dataset returned.

    Raises:
        DatasetError: An entry is of another type. The message has its number.
    """
    for place, record in enumerate(dicts):
        if not isinstance(record, dict):
            raise DatasetError(f"its entry {place} is no dict: {type(record)}. {DICT_FIELDS}")
        objects = record.get("annotations") or ()
        if not isinstance(objects, list | tuple) or any(type(a) is not dict for a in objects):
            raise DatasetError(f"annotations of dict {place} are no list of dicts. {DICT_FIELDS}")


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
        if isinstance(mask, list):  # a training reshapes arrays of points
            mask = [_flat(polygon) for polygon in mask]
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


def _flat(polygon: Any) -> Any:
    """Return [[x, y], [x, y], ...] as [x, y, x, y, ...]; anything else as it is."""
    points = isinstance(polygon, list) and all(isinstance(p, list) and len(p) == 2 for p in polygon)
    return [v for point in polygon for v in point] if points else polygon


def _plain(value: Any) -> Any:
    """Return numbers, tuples, arrays and tensors as Python's own numbers and lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
