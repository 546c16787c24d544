"""The last values of a study's runs, over seeds, beside the paper's."""

import statistics
from dataclasses import dataclass
from typing import Any

__all__ = ["Cell", "cells", "published"]


@dataclass(frozen=True)
class Cell:
    """One metric at one place on the axes.

    Attributes:
        values: of the runs that came to their end, a seed each.
        diverged: the iterations at which others did.
        failed: runs without any result.
    """

    values: tuple[float, ...]
    diverged: tuple[int, ...] = ()
    failed: int = 0

    @property
    def mean(self) -> float | None:
        """The mean over seeds; None where no run came to its end."""
        # fmean can be less than the least of equal values, by rounding
        return statistics.mean(self.values) if self.values else None

    @property
    def text(self) -> str:
        """Mean and standard deviation over seeds, and what happened to the others."""
        parts = []
        if len(self.values) > 1:
            parts.append(f"{_short(self.mean)} ± {statistics.stdev(self.values):.1f}")
        elif self.values:
            parts.append(_short(self.mean))
        if self.diverged:
            first = min(self.diverged)
            count = "" if len(self.diverged) == 1 else f"{len(self.diverged)} times, first "
            parts.append(f"diverged {count}at iteration {first:,}")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return "; ".join(parts) or "-"


def _short(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # not -0.0


def cells(record: dict[str, Any], metric: str) -> dict[tuple[str, ...], Cell]:
    """Return what ``metric`` came to at each place on the axes, in the order of the runs.

    Args:
        record: of :func:`studies.record.gather`.
        metric: one of ``record["metrics"]``.
    """
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in record["runs"]:
        found.setdefault(tuple(run["cell"].values()), []).append(run)
    return {key: _cell(runs, metric) for key, runs in found.items()}


def _cell(runs: list[dict[str, Any]], metric: str) -> Cell:
    done = [run["curves"][metric][-1] for run in runs if _has(run, metric)]
    return Cell(
        tuple(value for value in done if value is not None),
        tuple(run["iteration"] for run in runs if run["status"] == "diverged"),
        sum(run["status"] == "failed" for run in runs),
    )


def _has(run: dict[str, Any], metric: str) -> bool:
    return run["status"] == "done" and metric in run["curves"]


def published(numbers: dict[str, Any], metric: str, place: tuple[str, ...]) -> float | None:
    """Return the paper's number, None where it has none.

    Args:
        numbers: ``published`` of a study.
        metric: one of the study's.
        place: a value of each axis.
    """
    found: Any = numbers.get(metric, {})
    for value in place:
        found = found.get(value, {})
    return None if found == {} else found
