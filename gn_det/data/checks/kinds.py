"""What can be wrong with a dataset: the kinds of findings, how bad each is, and what mends it."""

from dataclasses import dataclass

from tabulate import tabulate

__all__ = ["KINDS", "SEVERITIES", "Kind", "markdown_table"]

# error: training or evaluation stops at it, or would go by what cannot be meant
# warning: it is dropped, clipped, ignored or filled in, and the run goes on
# note: nothing is wrong
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Kind:
    """One thing that can be found.

    Attributes:
        name: ``PART-WHAT``, as it stands in the report.
        severity: one of :data:`SEVERITIES`.
        what: is the matter, for a person.
        fix: what ``--fix`` does about it; "" where it leaves it as it is.
    """

    name: str
    severity: str
    what: str
    fix: str = ""


_REMOVED = "the annotation is removed"
_OF_MASK = "taken from the mask; without one, the annotation is removed"
_POLYGON = "the polygon is removed; without one left, the annotation is"
_IMAGE = "the image and its annotations are removed"

_KINDS = [
    # the file as a whole
    ("encoding", "error", "a byte order mark, or UTF-16 or 32", "written as UTF-8"),
    ("section", "error", "images or categories are missing, empty or no list"),
    ("no-annotations", "warning", "there is no annotation: nothing can be learned or scored"),
    ("record", "error", "an image, annotation or class is no {...} record", "removed"),
    ("key-twice", "warning", "a record has a key twice: readers keep the last", "the last is kept"),
    ("nan-literal", "warning", "NaN or Infinity, which is not JSON", "null, or mended"),
    ("id-text", "warning", "an id is text, or a number with a point", "a number where it is one"),
    ("id-mixed", "error", "some ids are text and some numbers: they have no order"),
    # images in the json
    ("image-id", "error", "the image's id is missing or no whole number", _IMAGE),
    ("image-twice", "error", "two images have one id", "one stays if the file is the same"),
    ("image-name", "error", "file_name is missing or cannot be a file's", _IMAGE),
    ("image-size", "error", "width or height is missing or impossible", "the file's, or removed"),
    ("image-number", "warning", "width or height is written as 640.0", "written as 640"),
    ("name-twice", "warning", "two images have one file"),
    ("image-empty", "note", "an image has no annotation"),
    # image files
    ("file-missing", "error", "the image's file is not there", _IMAGE),
    ("file-unreadable", "error", "the file is no image that can be read", _IMAGE),
    ("file-truncated", "error", "the image's data end too soon or are damaged", _IMAGE),
    ("file-size", "error", "the image has another size than the json says", "the file's size"),
    (
        "file-rotated",
        "error",
        "the size is right before the EXIF rotation, which Detectron2 applies",
        f"{_IMAGE}; to keep them, take the orientation out of the file instead",
    ),
    ("file-turned", "note", "an image is stored rotated; its size is right"),
    # classes
    ("class-id", "error", "the class's id is missing or no whole number", "the class is removed"),
    ("class-twice", "error", "two classes have one id", "one, if the name is the same"),
    ("class-name", "error", "the class's name is missing or no text", "named class_ID"),
    ("class-name-twice", "warning", "two classes have one name"),
    ("class-empty", "warning", "a class has no annotation"),
    ("class-not-in-train", "error", "a class that the training data lack"),
    ("class-order", "error", "a class stands at another place than in the training data"),
    ("class-untrained", "warning", "a class without a single annotation in the training data"),
    # annotations
    ("annotation-id", "error", "the annotation's id is missing or no whole number", "a new id"),
    ("annotation-twice", "error", "two annotations have one id", "a new id for the later one"),
    ("annotation-zero", "warning", "the id is 0, which pycocotools counts as missed", "a new id"),
    ("reference", "error", "image_id or category_id is missing or no whole number", _REMOVED),
    ("image-unknown", "warning", "an annotation of an image that is not there", _REMOVED),
    ("class-unknown", "error", "an annotation of a class that is not there", _REMOVED),
    ("ignore", "error", "Detectron2 stops at 'ignore': 1", _REMOVED),
    ("area", "warning", "area is missing or no area: the mask's or box's is taken", "computed"),
    ("crowd", "note", "iscrowd: left out in training, not counted in evaluation"),
    ("crowd-missing", "warning", "iscrowd is missing: 0 is taken", "0"),
    ("crowd-value", "error", "iscrowd is neither 0 nor 1", "0 or 1 where clear; else removed"),
    # boxes
    ("box-missing", "error", "there is no box", _OF_MASK),
    ("box-format", "error", "the box is not four numbers", f"read as numbers, or {_OF_MASK}"),
    ("box-nan", "error", "the box has NaN, inf or a number beyond all images", _OF_MASK),
    ("box-negative", "error", "the box has a negative size", _OF_MASK),
    ("box-zero", "warning", "the box has no area", _REMOVED),
    ("box-away", "error", "the box lies wholly outside of the image", _OF_MASK),
    ("box-outside", "warning", "the box reaches out by over a pixel", "cut off there"),
    # masks
    ("mask-format", "error", "the mask is neither polygons nor RLE", "the mask is removed"),
    ("mask-some", "warning", "no mask, where other annotations have one"),
    ("mask-empty", "warning", "a mask or polygon covers nothing", _POLYGON),
    ("polygon-flat", "error", "one list of numbers, no list of polygons", "put into a list"),
    ("polygon-values", "error", "a polygon is not a list of numbers", f"as numbers, or {_POLYGON}"),
    ("polygon-odd", "error", "a polygon has an odd number of coordinates", _POLYGON),
    ("polygon-points", "error", "a polygon has fewer than 3 points", _POLYGON),
    ("polygon-nan", "error", "a polygon has NaN, inf or a number beyond all images", _POLYGON),
    ("polygon-away", "error", "a polygon lies outside, or an image's size out of it", _POLYGON),
    ("polygon-outside", "warning", "a polygon reaches out by over a pixel", "moved in"),
    ("rle-size", "error", "the RLE is of another size than the image", _REMOVED),
    ("rle-counts", "error", "the counts of the RLE are malformed or do not fill it", _REMOVED),
]
KINDS = {kind[0]: Kind(*kind) for kind in _KINDS}


def markdown_table() -> str:
    """Return all kinds as a Markdown table, which stands in docs/datasets.md."""
    rows = [(k.name, k.severity, k.what, k.fix or "left") for k in KINDS.values()]
    return tabulate(rows, ("kind", "severity", "what", "what --fix does"), tablefmt="github")
