"""Other forms in which boxes and masks are written, read where they are clear.

Texts in place of numbers, points in place of coordinates, mappings of other tools, rectangles,
run lengths that Python printed. What is not clear stays unread.
"""

import ast
import json
import re
from contextlib import suppress
from itertools import chain
from typing import Any

from pycocotools import mask as mask_tools

from .box_evidence import Four, is_like
from .records import NUMBERS, polygon_problem
from .rle import rle_extent, run_lengths

__all__ = ["encoded_rle", "read_box", "read_mask"]

Size = tuple[int, int]
_NUMBERS = re.compile(r"\[?[\d\s.,;eE+-]{1,100000}\]?")
_CORNERS = [("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax")]
_CORNERS += [("left", "top", "right", "bottom")]
_SIDES = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
_LISTS = (("x", "y"), ("all_points_x", "all_points_y"))


def read_box(value: Any) -> list[float] | None:
    """Return the box [x, y, width, height] that a value means; None where it is not clear.

    Args:
        value: Four numbers or texts, in a list, a text, a mapping such as {"x": ..., "width": ...}
            or {"xmin": ...}, or the points of two corners.
    """
    value = _decoded(value)
    if isinstance(value, dict):
        return _rectangle_of(value)
    if isinstance(value, list) and len(value) == 1:
        return read_box(value[0])
    if isinstance(value, list) and len(value) == 2 and (points := _points(value)):
        return _from_corners(points)
    numbers = _numbers(value)
    return numbers if numbers is not None and len(numbers) == 4 else None


def read_mask(value: Any, size: Size, box: list[float] | None) -> list | dict | None:
    """Return the mask without a problem that a value means; None where it is not clear.

    Args:
        value: Polygons or an RLE, in any form.
        size: The size (width, height) of the image in pixels.
        box: The box [x, y, width, height] of the object, which decides between several meanings;
            None where it has a problem itself.
    """
    corners = (box[0], box[1], box[0] + box[2], box[1] + box[3]) if box else None
    value = _decoded(value)
    rles = value if isinstance(value, list) else [value]
    if rles and all(isinstance(rle, dict) and "counts" in rle for rle in rles):
        plain = [rle for rle in (_read_rle(rle, size, corners) for rle in rles) if rle]
        if len(plain) < len(rles):
            return None
        return plain[0] if len(plain) == 1 else _union(plain)
    found = _polygons(value)
    if len(found) == 1 and len({*zip(found[0][::2], found[0][1::2])}) == 2:
        found = _rectangle(found[0], corners)
    polygons = []
    for polygon in found:
        if polygon_problem(polygon, size) == "polygon-relative":
            polygon = [v * size[i % 2] for i, v in enumerate(polygon)]
        if polygon_problem(polygon, size) == "polygon-outside":
            polygon = [min(max(v, 0), size[i % 2]) for i, v in enumerate(polygon)]
        if polygon_problem(polygon, size) is None:
            polygons.append(polygon)
    return polygons or None


def _decoded(value: Any) -> Any:
    """Return what a text holds, where it is JSON or Python's; anything else as it is."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{", "("):
        listed = value.strip().translate({ord("("): "[", ord(")"): "]"})  # no tuples
        for read in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                return read(listed)
    return value


def _numbers(value: Any) -> list[float] | None:
    """Return a list of numbers, texts such as "1.5" and "1,2 3" included; None where it is none."""
    if isinstance(value, str) and _NUMBERS.fullmatch(value):
        value = re.split(r"[\s,;]+", value.strip(" ,;[]"))
    if not isinstance(value, list):
        return None
    numbers: list[Any] = []
    for number in value:
        if isinstance(number, str) and len(number) < 40:
            try:
                number = float(number)
            except ValueError:
                return None
        if type(number) not in NUMBERS:
            return None
        numbers.append(number)
    return numbers


def _points(value: Any) -> list[float] | None:
    """Return [x, y, x, y, ...] of points [x, y] or {"x": x, "y": y}; None where it is none."""
    if not isinstance(value, list) or len(value) < 2:
        return None
    points = [[p.get("x"), p.get("y")] if isinstance(p, dict) else p for p in value]
    if not all(isinstance(point, list) and len(point) == 2 for point in points):
        return None
    return _numbers(list(chain.from_iterable(points)))


def _polygons(value: Any) -> list[list[float]]:
    """Return the polygons that are written anywhere in a value."""
    if isinstance(value, dict):
        for x, y in _LISTS:
            xs, ys = _numbers(value.get(x)), _numbers(value.get(y))
            if xs and ys and len(xs) == len(ys):
                return [[v for point in zip(xs, ys) for v in point]]
        if rectangle := _rectangle_of(value):
            return [_four_corners(rectangle)]
        if value.get("interior"):
            return []  # a polygon cannot have holes
        keys = [key for key in ("points", "exterior", "coordinates") if key in value]
        return _polygons(value[keys[0]]) if keys else []
    polygon = _numbers(value) or _points(value)
    if polygon:
        return [polygon]
    return [p for item in value for p in _polygons(item)] if isinstance(value, list) else []


def _rectangle_of(value: dict) -> list[float] | None:
    for names in _SIDES:
        if numbers := _numbers([value.get(name) for name in names]):
            return numbers
    for names in _CORNERS:
        if numbers := _numbers([value.get(name) for name in names]):
            return _from_corners(numbers)
    return None


def _from_corners(corners: list[float]) -> list[float]:
    left, top, right, bottom = corners
    return [left, top, right - left, bottom - top]


def _four_corners(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def _rectangle(two: list[float], corners: Four | None) -> list[list[float]]:
    """Return the rectangle that two points mean, as a polygon.

    Args:
        two: Two opposite corners, or a box [x, y, width, height].
        corners: The left, top, right and bottom of the object; None where unknown.
    """
    a, b, c, d = two[:4]
    spans = (min(a, c), min(b, d), max(a, c), max(b, d))
    if corners is None or is_like(spans, corners):
        return [_four_corners(_from_corners(list(spans)))]
    return [_four_corners(two[:4])] if is_like((a, b, a + c, b + d), corners) else []


def _read_rle(rle: dict, size: Size, corners: Four | None) -> dict | None:
    """Return an RLE of the image's size, or None."""
    width, height = size
    stated = _numbers(rle.get("size"))
    for counts in _counts(rle["counts"]):
        runs = run_lengths(counts)
        if runs is None or runs.sum() != width * height or not runs[1::2].any():
            continue
        plain = {"size": [height, width], "counts": counts}
        if stated == [height, width]:
            return plain
        if stated not in (None, [width, height]):
            return None
        # the size alone is swapped, or the rows and columns are
        swapped = {"size": [width, height], "counts": counts}
        extent, turned = rle_extent(plain), rle_extent(swapped)
        turned = (turned[1], turned[0], turned[3], turned[2])
        fits = corners is not None and is_like(extent, corners)
        fits_turned = corners is not None and is_like(turned, corners)
        if fits and (not fits_turned or stated is None):
            return plain
        return _turned(swapped) if fits_turned and not fits and stated else None
    return None


def _counts(counts: Any) -> list[Any]:
    """Return the run lengths that a value may mean, the plainest first."""
    found = [counts]
    if isinstance(counts, str):
        if re.fullmatch(r"""b(['"]).*\1""", counts):  # Python's repr of bytes
            with suppress(ValueError, SyntaxError):
                found.append(ast.literal_eval(counts).decode("ascii"))
        found.append(counts.replace("\\\\", "\\"))
    elif isinstance(counts, bytes):
        found = [counts.decode("latin-1")]
    if numbers := _numbers(counts):
        whole = [int(v) for v in numbers if abs(v) < 2**31 and v == int(v)]
        if len(whole) == len(numbers):
            found.append(whole)
            if all(48 <= v < 112 for v in whole):  # the bytes of the text
                found.append(bytes(whole).decode("ascii"))
    return found


def _turned(rle: dict) -> dict:
    """Return an RLE with rows and columns swapped."""
    pixels = mask_tools.decode(encoded_rle(rle))
    turned = mask_tools.encode(pixels.T.copy(order="F"))
    return {"size": turned["size"], "counts": turned["counts"].decode()}


def _union(rles: list[dict]) -> dict:
    union = mask_tools.merge([encoded_rle(rle) for rle in rles])
    return {"size": union["size"], "counts": union["counts"].decode()}


def encoded_rle(rle: dict) -> dict:
    """Return the RLE as pycocotools computes with it."""
    return mask_tools.frPyObjects(rle, *rle["size"]) if isinstance(rle["counts"], list) else rle
