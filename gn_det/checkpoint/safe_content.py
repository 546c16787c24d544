"""Limits of what a file may hold: how deep, how often the same, and what keys its dicts have."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from .errors import WeightsError

__all__ = ["check_content", "check_keys", "shown"]

MAX_DEPTH = 100
_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray)
# A tuple's hash is not salted and recurses in C: by such keys a file could take hours, or crash.
_KEYS = (type(None), bool, int, float, str, bytes)


def shown(name: object, longest: int = 120) -> str:
    """Return a name out of a file for a message: one line, printable, not too long."""
    text = str(name).encode("unicode_escape", "surrogatepass").decode("ascii")
    return text if len(text) <= longest else f"{text[:longest]}..."


def check_keys(keys: Iterable[Any]) -> None:
    """Check keys of a dict, or members of a set, before they are hashed.

    Raises:
        WeightsError: they are no plain strings or numbers.
    """
    for key in keys:
        if type(key) not in _KEYS:
            raise WeightsError("it has a key that is neither a string nor a number")


def check_content(content: Any, most: int, is_leaf: Callable[[Any], bool]) -> None:
    """Walk through the whole content as its users will: lists of the same list, again and again.

    Args:
        content: what was read.
        most: parts that it may have, where one that is referred to twice counts twice.
        is_leaf: whether an object that is neither plain nor a container may be there.

    Raises:
        WeightsError: more parts, too many levels (also by containing itself), or another object.
    """
    parts = 1
    waiting = [(content, 0)]
    while waiting:
        item, depth = waiting.pop()
        kind = type(item)
        if kind in _PLAIN:
            continue
        if kind in (list, tuple, set, frozenset):
            children = list(item)
        elif kind is dict:
            children = list(item.values())  # keys are plain
        elif kind is OrderedDict:
            children = [*item.values(), *vars(item).values()]
        elif is_leaf(item):
            continue
        else:
            name = getattr(item, "name", kind.__name__)
            raise WeightsError(f"refused: it has {shown(name)} among its content, which is no data")
        if depth == MAX_DEPTH:
            raise WeightsError(f"it is nested more than {MAX_DEPTH} levels deep; no weights are")
        parts += len(children)
        if parts > most:
            raise WeightsError(
                f"it refers to its own lists so often that it has more than {most:,} parts"
            )
        waiting.extend((child, depth + 1) for child in children)
