"""Seconds of several works, run in turn, so that a slow minute of the machine hits them all."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tqdm import tqdm

__all__ = ["interleave", "seconds_of", "summary"]


def seconds_of(work: Callable[[], Any]) -> float:
    """Return the wall time of ``work()`` in seconds; a GPU's queue is emptied before and after."""
    _finish_gpu()
    start = time.perf_counter()
    work()
    _finish_gpu()
    return time.perf_counter() - start


def interleave(
    works: Mapping[str, Callable[[], Any]],
    repeats: int,
    warmup: int = 1,
    after: Callable[[], Any] = lambda: None,
) -> dict[str, list[float]]:
    """Run each work once, in turn, ``warmup + repeats`` times. A bar shows it in a terminal.

    Args:
        works: by name.
        repeats: how often each is timed, at least 1.
        warmup: how often each is run before.
        after: is run after each of them, untimed.

    Returns:
        The seconds of each repeat, by name.

    Raises:
        ValueError: no repeat, or a negative warm-up.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"{repeats} repeats after {warmup} of warm-up: nothing can be measured.")
    times = {name: [] for name in works}
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
    """Return all of ``times`` (seconds) with their median, least and most."""
    return {
        "seconds": statistics.median(times),
        "seconds_min": min(times),
        "seconds_max": max(times),
        "times": times,
    }


def _finish_gpu() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
