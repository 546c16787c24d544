"""Timing of several functions in turn, so that a slow minute of the machine affects them all.

There are two clocks: the wall time of what waits for the GPU in the end, as for a whole training
step; and the time on the GPU alone, with a cold cache, as for a single layer.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from tqdm import tqdm

__all__ = ["device_seconds_of", "interleave", "seconds_of", "summary"]

Work = Callable[[], Any]

# Larger than any L2 cache. It is read: what is written stays in the cache until the work after it
# has to write it to memory. At 3 TB/s all reads take 1.1 ms. Meanwhile the CPU goes ahead, so that
# its launches are not timed: a layer has some ten, forward and backward.
FLUSHED_BYTES, FLUSHES = 2**30, 3


def seconds_of(work: Work) -> float:
    """Return the wall time of ``work()`` in seconds, including its work on a GPU."""
    _wait_for_gpu()
    start = time.perf_counter()
    work()
    _wait_for_gpu()
    return time.perf_counter() - start


def device_seconds_of(work: Work) -> float:
    """Return the seconds of ``work()`` on a GPU with an empty cache; without a GPU: wall time.

    The time lies between two events on the GPU. Waiting for the CPU within the work counts.
    """
    if not torch.cuda.is_initialized():
        return seconds_of(work)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(FLUSHES):
        _flush_buffer().sum()
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def interleave(
    works: Mapping[str, Work],
    repeats: int,
    warmup: int = 1,
    after: Work = lambda: None,
    clock: Callable[[Work], float] = seconds_of,
) -> dict[str, list[float]]:
    """Run all functions in turn, ``warmup + repeats`` times.

    Args:
        works: The functions by name.
        repeats: The number of timed runs of each, at least 1.
        warmup: The number of untimed runs of each before.
        after: A function that runs after each of them, untimed.
        clock: A function that runs a work and returns its seconds.

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
                elapsed = clock(work)
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


@lru_cache
def _flush_buffer() -> torch.Tensor:
    return torch.zeros(FLUSHED_BYTES // 4, device="cuda")
