"""The table of a study: final values, ours and the paper's, for a terminal or a page."""

from typing import Any

from tabulate import tabulate

from .curves import METRICS
from .numbers import cells, published

__all__ = ["table"]


def table(record: dict[str, Any], numbers: dict[str, Any], form: str = "simple") -> str:
    """Return the table of a study with one axis, or with two axes a table for each metric.

    Args:
        record: The record of :func:`studies.record.gather`.
        numbers: The paper's values, ``published`` of a study.
        form: The format of tabulate: "simple" for a terminal, "github" for a page.
    """
    make = _one_axis if len(record["axes"]) == 1 else _two_axes
    return make(record, numbers, form)


def _one_axis(record: dict[str, Any], numbers: dict[str, Any], form: str) -> str:
    ((axis, values),) = record["axes"].items()
    headers, columns = [axis], [values]
    for metric in record["metrics"]:
        found = cells(record, metric)
        headers.append(METRICS[metric].label)
        columns.append([found[(value,)].text for value in values])
        if metric in numbers:
            headers.append("in the paper")
            columns.append([_number(published(numbers, metric, (value,))) for value in values])
    return _format(list(zip(*columns)), headers, form)


def _two_axes(record: dict[str, Any], numbers: dict[str, Any], form: str) -> str:
    (_, rows), (axis, columns) = record["axes"].items()
    tables = []
    for metric in record["metrics"]:
        found, lines = cells(record, metric), []
        for row in rows:
            lines.append([row, *(found[row, column].text for column in columns)])
            theirs = [published(numbers, metric, (row, column)) for column in columns]
            if any(value is not None for value in theirs):
                lines.append([f"{row}, in the paper", *map(_number, theirs)])
        headers = [METRICS[metric].label, *(f"{axis} {column}" for column in columns)]
        tables.append(_format(lines, headers, form))
    return "\n\n".join(tables)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _format(rows: list, headers: list[str], form: str) -> str:
    align = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers, tablefmt=form, colalign=align, disable_numparse=True)
