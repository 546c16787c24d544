"""Ids as COCO's tools want them: whole numbers."""

from typing import Any

__all__ = ["id_problem", "whole"]

_MOST = 2**53  # pycocotools keeps ids in float64


def id_problem(value: Any) -> str | None:
    """Return "missing" for what can be no id, "id-text" for text or 3.0, None for a good one."""
    if type(value) is int:
        return None if -_MOST < value < _MOST else "missing"
    text = type(value) is str and value
    return "id-text" if text or type(whole(value)) is int else "missing"


def whole(value: Any) -> Any:
    """Return the whole number that "12" or 12.0 is meant to be; anything else as it is."""
    if type(value) is float and value.is_integer() and abs(value) < _MOST:
        return int(value)
    if type(value) is str and len(value) < 20:
        digits = value.strip()  # int() would take 1_000 as well
        if digits.removeprefix("-").isdecimal() and digits.isascii() and abs(int(digits)) < _MOST:
            return int(digits)
    return value
