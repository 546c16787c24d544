"""Parts of messages: the names that were likely meant, shortened lists, and texts out of files."""

import difflib
from collections.abc import Iterable, Sequence

__all__ = ["and_more", "closest", "did_you_mean", "shorten"]


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


def shorten(value: object, longest: int = 120) -> str:
    """Return a text out of a file as it stands in a message: one line, printable, not too long.

    Args:
        value: The text, or another object whose ``str`` is short.
        longest: The number of characters after which it is cut off.
    """
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value)[: longest + 1])
    return text if len(text) <= longest else f"{text[:longest]}..."
