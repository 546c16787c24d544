"""The metrics of a run at each evaluation, from its ``metrics.json``."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["METRICS", "OF_TOOL", "Metric", "curves"]


@dataclass(frozen=True)
class Metric:
    """A metric of a run.

    Attributes:
        key: The key in ``metrics.json``.
        label: The label in tables and plots.
    """

    key: str
    label: str


METRICS = {
    "val_error": Metric("classification/top1_error", "validation error, %"),
    "top5_error": Metric("classification/top5_error", "top-5 error, %"),
    "train_error": Metric("training/top1_error", "training error, %"),
    "box_AP": Metric("bbox/AP", "box AP, %"),
    "box_AP50": Metric("bbox/AP50", "box AP50, %"),
    "mask_AP": Metric("segm/AP", "mask AP, %"),
    "p1": Metric("responses/p1", "1st percentile"),
    "p20": Metric("responses/p20", "20th percentile"),
    "p80": Metric("responses/p80", "80th percentile"),
    "p99": Metric("responses/p99", "99th percentile"),
}

# the metrics that every run of a tool has
OF_TOOL = {"pretrain": ["val_error", "train_error"], "detection": ["box_AP"]}


def curves(rows: Iterable[dict[str, float]], metrics: Iterable[str]) -> dict[str, list[Any]]:
    """Return the values of some metrics over a run.

    Args:
        rows: The rows of a ``metrics.json``, see :func:`gn_det.evaluation.read_metrics`.
        metrics: The names of metrics, keys of :data:`METRICS`.

    Returns:
        ``{"iteration": [done, ...], METRIC: [value, ...]}``, rounded to four decimals. A value is
        None if an evaluation has none or it is not finite. Metrics without any value are left out.
    """
    rows, keys = list(rows), {name: METRICS[name].key for name in metrics}
    trained = [row["iteration"] + 1 for row in rows if "total_loss" in row]
    points: dict[int, dict[str, float]] = {}
    for row in rows:
        found = {name: row[key] for name, key in keys.items() if key in row}
        if found:
            # Detectron2 writes the last evaluation one iteration later than the others
            done = min([int(row["iteration"]) + 1, *map(int, trained[-1:])])
            points.setdefault(done, {}).update(found)
    result: dict[str, list[Any]] = {"iteration": list(points)}
    for name in keys:
        if any(name in point for point in points.values()):
            result[name] = [_rounded(point.get(name)) for point in points.values()]
    return result


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)
