"""Tables of results, with the published numbers of the same config."""

from collections.abc import Iterable, Mapping

from tabulate import tabulate

from gn_det.model_zoo import published

from .scoring import METRICS

__all__ = ["per_class_table", "results_table"]

NAMES = {
    "bbox": "box",
    "segm": "mask",
    "sem_seg": "semantic",
    "panoptic_seg": "panoptic",
    "box_proposals": "proposals",
}
BY_CLASS = ("AP-", "IoU-")  # how the metrics of a class begin

Results = Mapping[str, Mapping[str, float]]


def results_table(results: Results, config_name: str | None = None) -> str:
    """Return the tables of a model's AP, of its average recall, and of what else was measured.

    Args:
        results: The numbers in percent by task, ``{"bbox": {"AP": ...}, "segm": {...}}``.
        config_name: The name of a config in the model zoo, whose published numbers are shown below
            the measured ones. None shows only the latter.
    """
    tables = []
    with_ap = {task: values for task, values in results.items() if "AP" in values}
    if with_ap:
        tables.append(_ap_table(with_ap, config_name))
    for task, values in results.items():
        if task not in with_ap:
            tables.append(_values_table({task: values}, [m for m in values if "-" not in m]))
    # keypoints have other limits than boxes and masks, and a table of their own
    recalls: dict[tuple[str, ...], dict] = {}
    for task, values in with_ap.items():
        names = tuple(name for name in values if name.startswith("AR"))
        recalls.setdefault(names, {})[task] = values
    tables += [_values_table(group, names) for names, group in recalls.items() if names]
    limits: dict[int, list[str]] = {}
    for task, values in with_ap.items():
        limits.setdefault(_limit(values), []).append(_name(task))
    if any(limits):
        counted = [
            f"{limit} ({', '.join(tasks)})" if len(limits) > 1 else str(limit)
            for limit, tasks in limits.items()
            if limit
        ]
        tables.append(
            f"AP and AR count at most {', '.join(counted)} detections of a class on an image."
        )
    return "\n\n".join(tables)


def _ap_table(results: Results, config_name: str | None) -> str:
    rows = []
    paper = published(config_name) if config_name else None
    # LVIS has APr, APc and APf besides
    found = dict.fromkeys(name for values in results.values() for name in values)
    others = [m for m in found if m.startswith("AP") and "-" not in m and m not in METRICS]
    metrics = [*METRICS, *others]
    for task, values in results.items():
        name = _name(task)
        rows.append([name, "measured", *(_number(values.get(m)) for m in metrics)])
        if paper is not None and task in NAMES and (numbers := paper.numbers(name)):
            rows.append([name, paper.row, *(_number(numbers.get(m)) for m in metrics)])
    return _table(rows, ["", "", *metrics], left=2)


def _values_table(results: Results, names: Iterable[str]) -> str:
    names = list(names)
    rows = [[_name(task), *(_number(v.get(m)) for m in names)] for task, v in results.items()]
    return _table(rows, ["", *names], left=1)


def _limit(values: Mapping[str, float]) -> int:
    """Return the number of detections that AP counts: the highest N of the recalls AR@N."""
    limits = [name[3:] for name in values if name.startswith("AR@")]
    return max(map(int, limits), default=0)


def per_class_table(results: Results) -> str:
    """Return the table of AP, and of semantic segmentation's IoU, by class.

    Args:
        results: The numbers in percent, as for :func:`results_table`.

    Returns:
        The table; a sentence where nothing was measured by class.
    """
    starts = {
        task: start
        for task, values in results.items()
        for start in BY_CLASS
        if any(key.startswith(start) for key in values)
    }
    classes = {
        key.removeprefix(start): None
        for task, start in starts.items()
        for key in results[task]
        if key.startswith(start)
    }
    if not classes:
        return "Nothing was measured by class."
    rows = [
        [name, *(_number(results[task].get(f"{start}{name}")) for task, start in starts.items())]
        for name in classes
    ]
    headers = ["class", *(f"{_name(task)} {start[:-1]}" for task, start in starts.items())]
    return _table(rows, headers, left=1)


def _name(task: str) -> str:
    plain = task.removesuffix("_TTA")
    return NAMES.get(plain, plain) + task.removeprefix(plain).replace("_TTA", ", TTA")


def _table(rows: list[list[str]], headers: list[str], left: int) -> str:
    align = ["left"] * left + ["right"] * (len(headers) - left)
    return tabulate(rows, headers=headers, colalign=align, disable_numparse=True)


def _number(value: float | None) -> str:
    # NaN, and LVIS's -100, where there is nothing to find
    return f"{value:.1f}" if value is not None and value >= 0 else "-"
