"""Limits of what a file may hold, and the placeholders of what in it is no data."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from gn_det.utils import and_more, shorten

from .errors import WeightsError

__all__ = ["Placeholder", "check_content", "hashable"]

MAX_DEPTH = 100
_SHOWN = 3
_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray)
# A tuple's hash is not salted and recurses in C: by such keys a file could take hours, or crash.
_KEYS = (type(None), bool, int, float, str, bytes)


class Placeholder:
    """What stands in a file's content for an object of a class that is not read.

    Args:
        name: The full name of the object's class, or of the function.
    """

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"Placeholder({shorten(self.name)!r})"


def hashable(key: Any) -> Any:
    """Return a key of a dict, or a member of a set, whose hash is cheap: a placeholder if need be.

    Args:
        key: An object out of a file.
    """
    if type(key) in _KEYS or type(key) is Placeholder:
        return key
    return Placeholder(f"a {type(key).__name__} as a key")


def check_content(content: Any, most: int, is_leaf: Callable[[Any], bool]) -> str:
    """Walk through the whole content as its users will: lists of the same list, again and again.

    Keys that are placeholders are removed from dicts, with their values. Other placeholders stay.

    Args:
        content: What was read.
        most: The number of parts that it may have. One that is referred to twice counts twice.
        is_leaf: The function that says whether an object that is no container is data.

    Returns:
        What is left out, with its place: ``"args (argparse.Namespace)"``; "" for nothing.

    Raises:
        WeightsError: The content has more parts, or too many levels (also by containing itself).
    """
    parts = 1
    left_out: list[Any] = []
    children: list[tuple[Any, Any]]
    # an object, its depth, and its place: (place of its container, key)
    waiting: list[tuple[Any, int, Any]] = [(content, 0, None)]
    while waiting:
        item, depth, place = waiting.pop()
        kind = type(item)
        if kind in (list, tuple):
            children = list(enumerate(item))
        elif kind in (set, frozenset):
            children = [("", member) for member in item]
        elif kind in (dict, OrderedDict):
            for key in [key for key in item if type(key) is Placeholder]:
                left_out.append((key.name, place))
                del item[key]
            children = [*item.items(), *getattr(item, "__dict__", {}).items()]
        elif kind in _PLAIN or is_leaf(item):
            continue
        else:
            left_out.append((getattr(item, "name", f"{kind.__module__}.{kind.__name__}"), place))
            continue
        if depth == MAX_DEPTH:
            raise WeightsError(f"it is nested more than {MAX_DEPTH} levels deep; no weights are")
        parts += len(children)
        if parts > most:
            raise WeightsError(
                f"it refers to its own lists so often that it has more than {most:,} parts"
            )
        waiting += [(c, depth + 1, (place, key)) for key, c in children if type(c) not in _PLAIN]
    left_out.reverse()  # the walk goes from the end to the start
    first = [f"{_path(place)} ({shorten(name)})" for name, place in left_out[:_SHOWN]]
    return and_more([*first, *left_out[_SHOWN:]], _SHOWN)


def _path(place: Any) -> str:
    keys: list[str] = []
    while place is not None:
        place, key = place
        keys.insert(0, str(key))
    return shorten(".".join(filter(None, keys)))  # members of a set have no key
