"""A file of detections in COCO's result format: read, and every entry checked.

What passes here is read alike by every scorer. So a file that one of them would misread, such as
one with masks of another image's size, ends in one line with the number of the entry.
"""

import json
import math
from collections.abc import Collection, Hashable, Mapping
from typing import Any

from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from gn_det.data import DatasetError
from gn_det.data.checks.rle import run_lengths
from gn_det.utils import identify_content, open_regular, shorten

from .scorers import ANNOTATION_KEYS

__all__ = ["RESULTS_FILE", "read_detections"]

RESULTS_FILE = "coco_instances_results.json"
_NAMES = {  # of what json reads
    dict: "an object",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
MAX_NUMBER = 1e9  # of a box or keypoint, in pixels: the product of two is still exact enough


class _WrongEntry(Exception):
    """What is wrong with an entry: the end of a sentence that begins with its number."""


def read_detections(path: str, truth: COCO, dataset_name: str) -> tuple[list[dict], list[str]]:
    """Read a file of detections.

    Args:
        path: The path of a JSON list.
        truth: The ground truth.
        dataset_name: The name of the dataset, for messages.

    Returns:
        The detections, with whole numbers as ids and compressed masks; and the tasks that they can
        be scored for: keys of :data:`gn_det.evaluation.scorers.ANNOTATION_KEYS`.

    Raises:
        DatasetError: The file is not such a list, or an entry is wrong. The message is one line,
            and names the first wrong entry by its number; the first entry is 0.
        FileNotFoundError: The file does not exist.
    """
    content = _read_json(path)
    if not isinstance(content, list):
        hint = ""
        if isinstance(content, dict) and isinstance(content.get("annotations"), list):
            hint = " Its 'annotations' may be that list: write them alone to a file."
        raise DatasetError(
            f"{path} holds {_NAMES[type(content)]}, not a list of detections as "
            f"{RESULTS_FILE} does.{hint}"
        )
    images, categories = truth.imgs, set(truth.getCatIds())
    points = max((len(a.get("keypoints") or ()) for a in truth.anns.values()), default=0) // 3
    fields = _fields_of(content)
    detections = []
    for number, entry in enumerate(content):
        try:
            detections.append(_checked(entry, fields, images, categories, points, dataset_name))
        except _WrongEntry as wrong:
            raise DatasetError(f"{path}: entry {number} {wrong}") from None
    return detections, [task for task, key in ANNOTATION_KEYS.items() if key in fields] or ["bbox"]


def _read_json(path: str) -> object:
    content = b""
    try:
        with open_regular(path) as file:
            content = file.read()
        if content.strip():
            return json.loads(content)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        what = identify_content(content) or "no text"
        raise DatasetError(f"{path} is not JSON: it is {what}.") from None
    except (ValueError, RecursionError) as error:
        what = identify_content(content)
        raise DatasetError(f"{path} is not JSON: {f'it is {what}.' if what else error}") from None
    raise DatasetError(f"{path} is empty. A file without detections holds [].")


def _fields_of(content: list) -> dict[str, int]:
    """Return the keys to compare that any entry has, and the number of the first that has it."""
    first: dict[str, int] = {}
    for number, entry in enumerate(content):
        if isinstance(entry, dict):
            for key in ANNOTATION_KEYS.values():
                if key in entry:
                    first.setdefault(key, number)
    return first


def _checked(
    entry: Any,
    fields: Mapping[str, int],
    images: dict,
    categories: set,
    points: int,
    dataset_name: str,
) -> dict:
    if not isinstance(entry, dict):
        raise _WrongEntry(f"is not a detection: {shorten(repr(entry), 40)} is no object.")
    lacking = [key for key in ("image_id", "category_id", "score") if key not in entry]
    if lacking or not entry.keys() & set(ANNOTATION_KEYS.values()):
        raise _WrongEntry(
            "is not a detection. It needs image_id, category_id, score, and bbox or segmentation"
            + (f"; it has no {' and no '.join(lacking)}." if lacking else ".")
        )
    for key, other in fields.items():
        if key not in entry:
            raise _WrongEntry(
                f"has no {key}, but entry {other} has one. Give every entry the same fields, or "
                "leave the others out of the file."
            )
    checked = {
        "image_id": _id(entry, "image_id", images, dataset_name),
        "category_id": _id(entry, "category_id", categories, dataset_name),
        "score": _finite(entry["score"], "score"),
    }
    size = _size(images[checked["image_id"]])
    read = {
        "bbox": _box,
        "segmentation": lambda mask: _mask(mask, size),
        "keypoints": lambda found: _keypoints(found, points, dataset_name),
    }
    return checked | {key: read[key](entry[key]) for key in fields}


def _id(entry: dict, key: str, known: Collection, dataset_name: str) -> Hashable:
    value = entry[key]
    if isinstance(value, list | dict | bool) or value is None:
        raise _WrongEntry(f"has {key} {_shown(value)}, which is no id.")
    if value in known:
        return int(value) if isinstance(value, float) else value
    if isinstance(value, str) and value.strip().isdecimal() and int(value) in known:
        raise _WrongEntry(f"has {key} {value!r}, a text. Write the number {int(value)}.")
    raise _WrongEntry(
        f"has {key} {_shown(value)}, which {dataset_name} does not have. Are these the results of "
        "another dataset?"
    )


def _finite(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _WrongEntry(f"has {name} {_shown(value)}, which is no number.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _WrongEntry(f"has {name} {_shown(value)}. It has to be a finite number.")
    return number


def _numbers(values: list, name: str) -> list[float]:
    numbers = [_finite(value, f"{name} {_shown(values)} with") for value in values]
    if any(abs(number) > MAX_NUMBER for number in numbers):
        raise _WrongEntry(f"has {name} {_shown(values)}. No image is that large.")
    return numbers


def _box(box: Any) -> list[float]:
    if not isinstance(box, list) or len(box) != 4:
        raise _WrongEntry(f"has bbox {_shown(box)}. A box is [x, y, width, height] in pixels.")
    numbers = _numbers(box, "bbox")
    if numbers[2] < 0 or numbers[3] < 0:
        raise _WrongEntry(
            f"has bbox {_shown(box)} with a negative size. A box is [x, y, width, height] in "
            "pixels."
        )
    return numbers


def _keypoints(found: Any, points: int, dataset_name: str) -> list[float]:
    if not isinstance(found, list) or not found or len(found) % 3:
        raise _WrongEntry(f"has keypoints {_shown(found)}. They are [x, y, v, x, y, v, ...].")
    if points and len(found) != 3 * points:
        raise _WrongEntry(
            f"has {len(found) // 3} keypoints, but the objects of {dataset_name} have {points}."
        )
    return _numbers(found, "keypoints")


def _mask(mask: Any, size: list[int] | None) -> dict:
    form = 'A mask is an RLE: {"size": [height, width], "counts": ...}.'
    if isinstance(mask, list) and mask:
        raise _WrongEntry(
            f"has polygons as segmentation, which COCO's results do not have. {form} "
            "pycocotools.mask.frPyObjects makes it of polygons."
        )
    if not isinstance(mask, dict) or not mask.keys() >= {"size", "counts"}:
        raise _WrongEntry(f"has segmentation {_shown(mask)}. {form}")
    stated, counts = mask["size"], mask["counts"]
    sides = isinstance(stated, list) and len(stated) == 2 and {*map(type, stated)} == {int}
    if not sides or min(stated) < 1:
        raise _WrongEntry(f"has a segmentation of size {_shown(stated)}. {form}")
    if size and stated != size:
        swapped = "height and width have changed places" if stated == size[::-1] else "not the same"
        raise _WrongEntry(
            f"has a segmentation of size {stated}, but its image's [height, width] is {size}: "
            f"{swapped}."
        )
    runs = run_lengths(counts)
    if runs is None or runs.sum() != stated[0] * stated[1]:
        python = isinstance(counts, str) and counts[:2] in ("b'", 'b"')
        raise _WrongEntry(
            "has a segmentation whose counts are damaged: they are not the runs of a mask of "
            f"{stated[0]} x {stated[1]} pixels."
            + (" They are Python's bytes as text: write counts.decode()." if python else "")
        )
    if isinstance(counts, list):  # pycocotools compares compressed masks alone
        counts = mask_util.frPyObjects({"size": stated, "counts": counts}, *stated)["counts"]
        return {"size": stated, "counts": counts.decode()}
    return {"size": stated, "counts": counts}


def _size(image: dict) -> list[int] | None:
    """Return the height and width of an image; None where the ground truth does not say them."""
    sides = [image.get("height"), image.get("width")]
    whole = all(isinstance(n, int | float) and math.isfinite(n) and n > 0 for n in sides)
    return [int(n) for n in sides if n is not None] if whole else None


def _shown(value: object) -> str:
    return shorten("null" if value is None else repr(value), 60)
