"""The final values of a study's runs over seeds, and the paper's values."""

import statistics
from dataclasses import dataclass
from typing import Any

__all__ = ["Cell", "cells", "published"]


@dataclass(frozen=True)
class Cell:
    """One metric for one value of each axis, over seeds.

    Attributes:
        values: The final value of each finished run.
        diverged: The iteration at which each diverged run diverged.
        failed: The number of failed runs.
    """

    values: tuple[float, ...]
    diverged: tuple[int, ...] = ()
    failed: int = 0

    @property
    def mean(self) -> float | None:
        """The mean over seeds; None if no run has finished."""
        # not fmean, whose rounding can make the mean of equal values smaller than these
        return statistics.mean(self.values) if self.values else None

    @property
    def text(self) -> str:
        """Mean and standard deviation over seeds, and the numbers of diverged and failed runs."""
        parts = []
        if len(self.values) > 1:
            mean = statistics.mean(self.values)
            parts.append(f"{_short(mean)} ± {statistics.stdev(self.values):.1f}")
        elif self.values:
            parts.append(_short(self.values[0]))
        if self.diverged:
            first = min(self.diverged)
            count = "" if len(self.diverged) == 1 else f"{len(self.diverged)} times, first "
            parts.append(f"diverged {count}at iteration {first:,}")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return "; ".join(parts) or "-"


def _short(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # 0.0 in place of -0.0


def cells(record: dict[str, Any], metric: str) -> dict[tuple[str, ...], Cell]:
    """Return the cell of a metric for each combination of axis values, in the order of the runs.

    Args:
        record: The record of :func:`studies.record.gather`.
        metric: One of ``record["metrics"]``.
    """
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in record["runs"]:
        found.setdefault(tuple(run["cell"].values()), []).append(run)
    return {key: _cell(runs, metric) for key, runs in found.items()}


def _cell(runs: list[dict[str, Any]], metric: str) -> Cell:
    final = [run["curves"][metric][-1] for run in runs if _has(run, metric)]
    return Cell(
        tuple(value for value in final if value is not None),
        tuple(run["iteration"] for run in runs if run["status"] == "diverged"),
        sum(run["status"] == "failed" for run in runs),
    )


def _has(run: dict[str, Any], metric: str) -> bool:
    return run["status"] == "done" and metric in run["curves"]


def published(numbers: dict[str, Any], metric: str, place: tuple[str, ...]) -> float | None:
    """Return the paper's value, or None if there is none.

    Args:
        numbers: The paper's values, ``published`` of a study.
        metric: A metric of the study.
        place: A value of each axis.
    """
    found: Any = numbers.get(metric, {})
    for value in place:
        found = found.get(value, {})
    return None if found == {} else found
