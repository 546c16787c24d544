"""Tables of results, with the published numbers of the same config."""

from collections.abc import Mapping

from tabulate import tabulate

from gn_det.model_zoo import published

from .scoring import METRICS

__all__ = ["per_class_table", "results_table"]

NAMES = {"bbox": "box", "segm": "mask"}


def results_table(
    results: Mapping[str, Mapping[str, float]], config_name: str | None = None
) -> str:
    """Return the table of a model's AP.

    Args:
        results: The AP in percent, ``{"bbox": {"AP": ...}, "segm": {...}}``.
        config_name: The name of a config in the model zoo, whose published numbers are shown below
            the measured ones. None shows only the latter.
    """
    rows = []
    paper = published(config_name) if config_name else None
    for task, values in results.items():
        name = NAMES.get(task, task)
        rows.append([name, "measured", *(_number(values.get(m)) for m in METRICS)])
        if paper is not None and (numbers := paper.numbers(name)):
            rows.append([name, paper.row, *(_number(numbers.get(m)) for m in METRICS)])
    return _table(rows, ["", "", *METRICS], left=2)


def per_class_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table of AP by class.

    Args:
        results: The AP in percent, as for :func:`results_table`.
    """
    classes = [key for key in next(iter(results.values())) if key.startswith("AP-")]
    rows = [
        [key.removeprefix("AP-"), *(_number(results[task].get(key)) for task in results)]
        for key in classes
    ]
    headers = ["class", *(f"{NAMES.get(task, task)} AP" for task in results)]
    return _table(rows, headers, left=1)


def _table(rows: list[list[str]], headers: list[str], left: int) -> str:
    align = ["left"] * left + ["right"] * (len(headers) - left)
    return tabulate(rows, headers=headers, colalign=align, disable_numparse=True)


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.1f}"
