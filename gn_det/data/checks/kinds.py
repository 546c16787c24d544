"""All that can be wrong with a dataset: the kinds of problems, their severity, and what fixes them.

A new kind needs an entry here; the check that reports it (records.py, coco_json.py or images.py);
the fix, if it has one (fix_annotation.py or fixed_copy.py); a case in
tests/data/test_broken_datasets.py; and the table of docs/datasets.md.
"""

from dataclasses import dataclass

from tabulate import tabulate

__all__ = ["KINDS", "SEVERITIES", "Kind", "markdown_table"]

# error: the run would stop, or use wrong data
# warning: the value is dropped, clipped, ignored or filled in, and the run continues
# note: nothing is wrong
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Kind:
    """One kind of problem.

    Attributes:
        name: The name in the report, ``PART-WHAT``.
        severity: One of :data:`SEVERITIES`.
        description: The problem, for a person.
        fix: What ``--fix`` does; "" where it changes nothing.
    """

    name: str
    severity: str
    description: str
    fix: str = ""


_REMOVED = "the annotation is removed"
_OF_MASK = "taken from the mask; without a mask, the annotation is removed"
_MASK = "the mask is removed, the box is kept"
_POLYGON = f"the polygon is removed; if none is left, {_MASK}"
_PROVEN = f"if the box shows that it is; otherwise {_MASK}"
_READ = f"read if clear (b'...', bytes); otherwise {_MASK}"
_BY_MASK = "taken from the mask; without a mask, nothing"
_CLASS = "the class is removed"
_BY_NAME = "found by its name; otherwise "
_IMAGE = "the image and its annotations are removed"

_KINDS = [
    # the file as a whole
    ("encoding", "error", "UTF-16 or 32, which JSON is not written in", "written as UTF-8"),
    ("byte-order-mark", "warning", "three bytes before the JSON", "written without"),
    ("section", "error", "images or categories are missing or empty, or a section is not a list"),
    ("no-annotations", "warning", "there is no annotation: nothing can be learned or scored"),
    ("record", "error", "an image, annotation or class is not a {...} record", "removed"),
    ("key-twice", "warning", "a record has a key twice: readers keep the last", "the last is kept"),
    ("nan-literal", "warning", "NaN or Infinity, which is not JSON", "null, or fixed"),
    ("id-text", "warning", "an id is text, or written as 3.0", "a whole number if it is one"),
    ("id-mixed", "error", "some ids are text and some are numbers: they have no order"),
    # images in the json
    ("image-id", "error", "the image's id is missing or no whole number (64 bits)", _IMAGE),
    ("image-twice", "error", "two images have the same id", "one is kept if the file is the same"),
    ("image-name", "error", "file_name is missing or cannot be a file's name", _IMAGE),
    ("image-size", "error", "width or height is missing or impossible", "the file's, or removed"),
    ("image-number", "warning", "width or height is written as 640.0", "written as 640"),
    ("name-twice", "warning", "two images have the same file"),
    ("image-empty", "note", "an image has no annotation"),
    # image files
    ("file-missing", "error", "the image's file does not exist", _IMAGE),
    ("file-name", "error", "the file's name is written in another way", "the file's name"),
    ("file-unreadable", "error", "the file is not an image that can be read", _IMAGE),
    ("file-truncated", "error", "the image's data are cut off or damaged", _IMAGE),
    ("file-size", "error", "the image and the json differ in size", "the file's size"),
    (
        "file-rotated",
        "error",
        "the size is right before the EXIF rotation, which Detectron2 applies",
        f"{_IMAGE}; to keep them, remove the orientation from the file instead",
    ),
    (
        "file-depth",
        "error",
        "more than 8 bits a channel: set INPUT.WINDOW (and --window here)",
    ),
    ("file-pages", "warning", "a TIFF with several pages: only the first one is read"),
    ("image-narrow", "error", "a side is 0 pixels after the resizing to at most 1333 pixels"),
    ("file-turned", "note", "an image is stored rotated; its size is right"),
    # classes
    ("class-id", "error", "the class's id is missing or no whole number (64 bits)", _CLASS),
    ("class-twice", "error", "two classes have the same id", "one is kept if the name is the same"),
    (
        "class-name",
        "error",
        "the class's name is missing or not text",
        "a number as text; else class_ID",
    ),
    ("class-name-twice", "warning", "two classes have the same name"),
    ("class-empty", "warning", "a class has no annotation"),
    ("class-not-in-train", "error", "the training data do not have this class"),
    ("class-order", "error", "the class has another place in the training data"),
    ("class-untrained", "warning", "the class has no annotation in the training data"),
    # annotations
    (
        "annotation-id",
        "error",
        "the annotation has no id that is a whole number",
        "a new id",
    ),
    ("annotation-twice", "error", "two annotations have the same id", "a new id for the later one"),
    ("annotation-zero", "warning", "the id is 0, which pycocotools counts as missed", "a new id"),
    (
        "reference",
        "error",
        "image_id or category_id is missing or no whole number",
        _REMOVED,
    ),
    ("image-unknown", "warning", "the annotation's image does not exist", f"{_BY_NAME}{_REMOVED}"),
    (
        "class-unknown",
        "error",
        "the annotation's class does not exist",
        f"nothing where all ids are one too low; {_BY_NAME}{_REMOVED}",
    ),
    (
        "ignore",
        "error",
        "Detectron2 stops at 'ignore': 1",
        f"0 if it means 0; or {_REMOVED}",
    ),
    ("area", "warning", "area is missing or wrong: that of mask or box is used", "computed"),
    ("crowd", "note", "iscrowd: left out in training, not counted in evaluation"),
    ("crowd-missing", "warning", "iscrowd is missing: it counts as 0", "0"),
    ("crowd-value", "error", "iscrowd is neither 0 nor 1", "0 or 1 if clear; otherwise removed"),
    # boxes
    ("box-missing", "error", "there is no box", _OF_MASK),
    ("box-mode", "error", "bbox_mode of a dict is neither XYWH_ABS nor XYXY_ABS"),
    ("box-format", "error", "the box is not a list of 4 numbers", f"read if clear; or {_OF_MASK}"),
    ("box-nan", "error", "the box has NaN, inf or a number that is too large", _OF_MASK),
    (
        "box-negative",
        "error",
        "the box has a negative size",
        "taken from the mask; or drawn the other way, if it fits into the image; or removed",
    ),
    ("box-zero", "warning", "the box has no area", _OF_MASK),
    ("box-away", "error", "the whole box is outside the image", _OF_MASK),
    ("box-outside", "warning", "the box is more than one pixel outside the image", "clipped"),
    # what the boxes look like in place of x, y, width, height in pixels
    ("box-corners", "error", "boxes look like x1, y1, x2, y2", _BY_MASK),
    ("box-centre", "error", "boxes look like centre x, centre y, width, height", _BY_MASK),
    ("box-swapped", "error", "boxes look like y before x", _BY_MASK),
    (
        "box-relative",
        "error",
        "boxes look like parts (0 to 1, percent) of the image",
        _BY_MASK,
    ),
    ("box-many-out", "error", "many boxes stick out: of larger images, or in another form"),
    ("box-upper-left", "warning", "all boxes are in the upper left: those of smaller images?"),
    ("box-mask", "error", "the box and its mask contradict each other", _BY_MASK),
    ("box-loose", "warning", "the box is another than that around its mask"),
    # masks
    ("mask-format", "error", "the mask is neither polygons nor RLE", f"read if clear; or {_MASK}"),
    ("mask-some", "warning", "there is no mask, but other annotations have one"),
    ("mask-empty", "warning", "a mask or polygon covers nothing", _POLYGON),
    ("polygon-flat", "error", "a list of numbers, not a list of polygons", "put into a list"),
    (
        "polygon-values",
        "error",
        "a polygon is not a list of numbers",
        f"read if clear (points, texts); otherwise {_POLYGON}",
    ),
    ("polygon-odd", "error", "a polygon has an odd number of coordinates", _POLYGON),
    (
        "polygon-points",
        "error",
        "a polygon has fewer than 3 points",
        f"a rectangle, if they are corners of the box; otherwise {_POLYGON}",
    ),
    (
        "polygon-relative",
        "error",
        "a polygon is in parts (0 to 1) of the image",
        "in pixels",
    ),
    ("polygon-nan", "error", "a polygon has NaN, inf or a number that is too large", _POLYGON),
    ("polygon-away", "error", "a polygon is outside the image, or far out of it", _POLYGON),
    ("polygon-outside", "warning", "a polygon is more than one pixel outside", "clipped"),
    ("rle-size", "error", "the RLE's size is missing or not the image's", f"swapped, {_PROVEN}"),
    ("rle-counts", "error", "the counts of the RLE are malformed or do not fill it", _READ),
]
KINDS = {kind[0]: Kind(*kind) for kind in _KINDS}


def markdown_table() -> str:
    """Return all kinds as the Markdown table of docs/datasets.md."""
    rows = [(k.name, k.severity, k.description, k.fix or "nothing") for k in KINDS.values()]
    return tabulate(rows, ("kind", "severity", "description", "fix"), tablefmt="github")
