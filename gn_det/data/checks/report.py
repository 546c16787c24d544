"""The problems that were found in a dataset: their number by kind, with a few examples of each."""

from collections import Counter, defaultdict
from typing import Any

from gn_det.utils import shorten

from .kinds import KINDS, SEVERITIES

__all__ = ["MAX_EXAMPLES", "Report", "shown"]

MAX_EXAMPLES = 3


def shown(value: Any, longest: int = 100) -> str:
    """Return a value from a file as it stands in a message: one line, printable, not too long.

    Args:
        value: The value.
        longest: The number of characters after which the text is cut off.
    """
    if isinstance(value, list | dict) and len(value) > 8:
        some = value[:4] if isinstance(value, list) else dict(list(value.items())[:2])
        text = f"{_plain(some, longest)} of {len(value)} values"
    else:
        text = _plain(value, longest)
    return shorten(text, longest)


def _plain(value: Any, longest: int) -> str:
    if isinstance(value, str):
        return value[: longest + 1]
    try:
        return repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or deep nesting
        return type(value).__name__


class Report:
    """Counts the problems of a dataset. Its memory does not grow with their number.

    Attributes:
        counts: The number of problems by kind.
        examples: A few texts by kind.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, where: str = "", value: Any = None, count: int = 1) -> None:
        """Count a problem.

        Args:
            kind: A key of :data:`KINDS`.
            where: The place, such as "a.jpg, annotation 12".
            value: The value that is wrong; None where there is nothing to show.
            count: The number of problems that this call stands for.
        """
        self.counts[kind] += count
        if len(self.examples[kind]) < MAX_EXAMPLES:
            text = shown(where, 120) if value is None else f"{shown(where, 120)}: {shown(value)}"
            self.examples[kind].append(text.removeprefix(": "))

    def of(self, severity: str) -> list[str]:
        """Return the kinds of a severity that were found, in the order of :data:`KINDS`."""
        return [k.name for k in KINDS.values() if k.severity == severity and self.counts[k.name]]

    def lines(self, severity: str) -> list[str]:
        """Return one line for each kind of a severity that was found, with an example."""
        return [
            f"{self.counts[name]:,} x {name}: {KINDS[name].description}"
            + (f" ({self.examples[name][0]})" if self.examples[name][0] else "")
            for name in self.of(severity)
        ]

    def table(self) -> str:
        """Return a table for a terminal: one row a kind, errors first, with examples below each."""
        lines = []
        for severity in SEVERITIES:
            for name in self.of(severity):
                count = f"{self.counts[name]:,}"
                lines.append(f"{severity:<8} {name:<19} {count:>9}  {KINDS[name].description}")
                lines += (f"{'':<40}{example}" for example in self.examples[name] if example)
        return "\n".join(lines)

    def summary(self) -> str:
        """Return "2 errors of 1 kind, 3 warnings of 2 kinds", or "nothing is wrong"."""
        parts = []
        for severity in SEVERITIES[:2]:
            if names := self.of(severity):
                total, kinds = sum(self.counts[name] for name in names), len(names)
                parts.append(
                    f"{total:,} {severity}{'s' * (total > 1)} of {kinds} kind{'s' * (kinds > 1)}"
                )
        return ", ".join(parts) or "nothing is wrong"
