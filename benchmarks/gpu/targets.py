"""The targets for a GPU, evaluated on a record: what was to be reached, and what was."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["TARGETS", "Target", "at", "floor_seconds"]

LEAN = "lean-bf16-channels_last"
MINIMAL = "minimal-bf16-channels_last"
INFERENCE = "standard-bf16-channels_last"
FROZENBN, GN = "stock-frozenbn-bf16", "stock-gn-bf16"
FUSED = "gn_det-bf16-channels_last"
LARGE = 16 * 2**20  # bytes of a tensor that no launch matters for
# bytes an element in bfloat16: forward reads x twice and writes y; backward reads x and dy twice,
# and writes dx
FLOOR_BYTES = {"forward": 6, "training": 16}


@dataclass(frozen=True)
class Target:
    """A target.

    Attributes:
        text: What is compared.
        limit: The largest value that meets it.
        value: A function that returns what a record has; None if it was not measured.
    """

    text: str
    limit: float
    value: Callable[[dict], float | None]

    def verdict(self, record: dict) -> tuple[str, str, str, str]:
        """Return text, limit, the value reached, and ``yes``, ``no`` or ``not measured``."""
        value = self.value(record)
        if value is None or math.isnan(value):
            return self.text, f"{self.limit:g}", "-", "not measured"
        return self.text, f"{self.limit:g}", f"{value:.2f}", "yes" if value <= self.limit else "no"


def at(record: dict, *keys: str) -> Any:
    """Return the entry below ``sections`` by its keys; None where one is missing."""
    found: Any = record["sections"]
    for key in keys:
        if not isinstance(found, dict) or key not in found:
            return None
        found = found[key]
    return found


def _ratio(section: str, name: str, to: str, key: str) -> Callable[[dict], float | None]:
    def value(record: dict) -> float | None:
        mine, other = (at(record, section, "rows", n, key) for n in (name, to))
        return mine / other if mine and other else None

    return value


def _time_ratio(section: str, name: str, to: str) -> Callable[[dict], float | None]:
    return lambda record: at(record, section, "rows", name, "time_over", to)


def floor_seconds(record: dict, shape: list[int], kind: str) -> float | None:
    """Return the time of GN with ReLU in bfloat16 that reads all twice, at the speed of a copy.

    Args:
        record: The record, whose copies are the measure.
        shape: The shape of the input.
        kind: ``forward``, or ``training`` for forward and backward.
    """
    speed = at(record, "machine", "rows", "speeds", "copy_bytes_per_second")
    return math.prod(shape) * FLOOR_BYTES[kind] / speed if speed else None


def _over_floor(kind: str) -> Callable[[dict], float | None]:
    """Return a function for the largest ratio of a large layer's time to its floor."""

    def ratios(record: dict) -> Iterator[float]:
        for row in (at(record, "layers", "rows") or {}).values():
            shape = row.get("shape")
            if not shape or 2 * math.prod(shape) <= LARGE or FUSED not in row["ways"]:
                continue
            if floor := floor_seconds(record, shape, kind):
                yield row["ways"][FUSED][kind]["seconds"] / floor

    return lambda record: max(ratios(record), default=None)


def _estimate_error(record: dict) -> float | None:
    """Return the largest relative error of the estimated peaks."""
    errors = []
    for name, row in (at(record, "estimates", "rows") or {}).items():
        peak = at(record, "training", "rows", name, "peak_allocated")
        if peak and "peak" in row:
            errors.append(abs(row["peak"] / peak - 1))
    return max(errors, default=None)


TARGETS = [
    Target(
        "training step: lean bf16 over FrozenBN bf16", 1.05, _time_ratio("training", LEAN, FROZENBN)
    ),
    Target("training step: lean bf16 over stock GN bf16", 0.80, _time_ratio("training", LEAN, GN)),
    Target(
        "kept for backward: lean over FrozenBN bf16",
        0.90,
        _ratio("training", LEAN, FROZENBN, "kept"),
    ),
    Target(
        "kept for backward: minimal over FrozenBN bf16",
        0.42,
        _ratio("training", MINIMAL, FROZENBN, "kept"),
    ),
    Target(
        "peak allocated: lean over FrozenBN bf16",
        1.00,
        _ratio("training", LEAN, FROZENBN, "peak_allocated"),
    ),
    Target(
        "inference: gn_det bf16 over FrozenBN bf16",
        1.05,
        _time_ratio("inference", INFERENCE, FROZENBN),
    ),
    Target("GN with ReLU, forward: worst large layer over its floor", 1.25, _over_floor("forward")),
    Target("GN with ReLU, forward and backward: the same", 1.25, _over_floor("training")),
    Target(
        "synchronizations of gn_det in a step",
        3,
        lambda record: at(
            record, "training", "rows", LEAN, "trainer", "synchronizations", "gn_det"
        ),
    ),
    Target("estimate of the peak: largest relative error", 0.10, _estimate_error),
]
