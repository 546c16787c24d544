"""Parts of messages: the names that were likely meant, and shortened lists."""

import difflib
from collections.abc import Iterable, Sequence

__all__ = ["and_more", "closest", "did_you_mean"]


def closest(name: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the names of ``known`` that are spelled most like ``name``, the closest first.

    Args:
        name: The name that was given.
        known: The names that there are.
        count: The largest number of names to return.
        cutoff: The similarity, in [0, 1], that a name must have.
    """
    return difflib.get_close_matches(name, [*known], n=count, cutoff=cutoff)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Was NAME meant?"`` with the closest name of ``known``; ``""`` where none is close.

    Args:
        name: The name that was given.
        known: The names that there are.
    """
    return "".join(f" Was {other} meant?" for other in closest(name, known))


def and_more(names: Sequence[str], shown: int = 1) -> str:
    """Return the first ``shown`` names, and how many more there are: ``"a, b and 3 more"``.

    Args:
        names: The names, at least one.
        shown: The number of names that are written out.
    """
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
