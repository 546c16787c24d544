"""Timing of several functions in turn, so that a slow minute of the machine affects them all."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tqdm import tqdm

__all__ = ["interleave", "seconds_of", "summary"]


def seconds_of(work: Callable[[], Any]) -> float:
    """Return the wall time of ``work()`` in seconds, including its work on a GPU."""
    _wait_for_gpu()
    start = time.perf_counter()
    work()
    _wait_for_gpu()
    return time.perf_counter() - start


def interleave(
    works: Mapping[str, Callable[[], Any]],
    repeats: int,
    warmup: int = 1,
    after: Callable[[], Any] = lambda: None,
) -> dict[str, list[float]]:
    """Run all functions in turn, ``warmup + repeats`` times.

    Args:
        works: The functions by name.
        repeats: The number of timed runs of each, at least 1.
        warmup: The number of untimed runs of each before.
        after: A function that runs after each of them, untimed.

    Returns:
        The seconds of each timed run, by name.

    Raises:
        ValueError: ``repeats`` or ``warmup`` is too small.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"Cannot time {repeats} repeats after {warmup} warm-up runs.")
    times: dict[str, list[float]] = {name: [] for name in works}
    rounds = warmup + repeats
    with tqdm(total=rounds * len(works), unit="run", leave=False, disable=None) as bar:
        for index in range(rounds):
            for name, work in works.items():
                bar.set_description(f"{name} {index + 1}/{rounds}")
                elapsed = seconds_of(work)
                after()
                if index >= warmup:
                    times[name].append(elapsed)
                bar.update()
    return times


def summary(times: list[float]) -> dict[str, Any]:
    """Return median, minimum and maximum of ``times`` (seconds), and all of them."""
    return {
        "seconds": statistics.median(times),
        "seconds_min": min(times),
        "seconds_max": max(times),
        "times": times,
    }


def _wait_for_gpu() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
