"""What a piece of work does to a GPU: launches, time, memory, waiting. All is 0 without a GPU."""

import gc
import statistics
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

__all__ = [
    "DEVICE",
    "PeakMemory",
    "count_synchronizations",
    "device_activity",
    "host_seconds",
    "held_bytes",
    "watch_synchronizations",
]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OWNERS = ("gn_det", "detectron2", "benchmarks")
TOP = 12  # kernels that are named


class PeakMemory:
    """The most memory from now on, above what there is now. All cached blocks are freed first."""

    def __init__(self):
        self._before = 0, 0
        gc.collect()  # what is freed later would be taken off the peak
        if DEVICE == "cuda":
            self.restart()
            self._before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    def restart(self) -> None:
        """Forget the peak. What there was at the beginning still does not count."""
        if DEVICE == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def read(self) -> dict[str, int]:
        """Return the peak of allocated and of reserved bytes."""
        if DEVICE == "cpu":
            return {"peak_allocated": 0, "peak_reserved": 0}
        torch.cuda.synchronize()
        return {
            "peak_allocated": torch.cuda.max_memory_allocated() - self._before[0],
            "peak_reserved": torch.cuda.max_memory_reserved() - self._before[1],
        }


def held_bytes(work: Callable[[], Any]) -> int:
    """Return the bytes that the result of ``work()`` holds on the GPU."""
    if DEVICE == "cpu":
        work()
        return 0
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    result = work()
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated() - before
    del result
    return held


def device_activity(work: Callable[[], Any]) -> dict[str, Any]:
    """Return how long ``work()`` keeps the GPU busy, how often it launches, and its top kernels.

    Returns:
        ``busy_seconds``; ``launches`` of kernels, copies and fills; ``top``: name, launches and
        seconds of the kernels that take the most.
    """
    # without the CPU's operations, which would take seconds to sort and slow the launches down
    activity = ProfilerActivity.CUDA if DEVICE == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        work()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
    events = [
        event
        for event in profiler.events()
        # an annotation, such as Optimizer.step, spans the kernels within it
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    ]
    launches: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for event in events:
        launches[event.name] += 1
        seconds[event.name] += event.time_range.elapsed_us() / 1e6
    spans = [(event.time_range.start, event.time_range.end) for event in events]
    return {
        "busy_seconds": _covered(spans) / 1e6,
        "launches": len(events),
        "top": [[name[:100], launches[name], time] for name, time in seconds.most_common(TOP)],
    }


def _covered(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of spans (start, end)."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


@contextmanager
def watch_synchronizations() -> Iterator[Counter[str]]:
    """Within the block: count for each line of code how often it lets the CPU wait for the GPU.

    A line is ``OWNER FILE:LINE FUNCTION``, that of the innermost call of gn_det, Detectron2 or the
    benchmarks. PyTorch does not see all that wait.
    """
    found: Counter[str] = Counter()

    def note(message: Any, *_args: Any, **_kwargs: Any) -> None:
        if "called a synchronizing" in str(message):
            found[_who_asked(traceback.extract_stack()[:-1])] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        if DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            if DEVICE == "cuda":
                torch.cuda.set_sync_debug_mode("default")


def count_synchronizations(work: Callable[[], Any]) -> dict[str, Any]:
    """Return the number of synchronizations of ``work()`` by owner, and the lines that asked."""
    with watch_synchronizations() as found:
        work()
    return by_owner(found)


def by_owner(found: Counter[str]) -> dict[str, Any]:
    """Return the counts of :func:`watch_synchronizations` by owner, and ``"lines"``."""
    owners = {
        owner: sum(n for line, n in found.items() if line.startswith(owner)) for owner in OWNERS
    }
    return {**owners, "lines": dict(found.most_common())}


def _who_asked(stack: list[traceback.FrameSummary]) -> str:
    for frame in reversed(stack):
        parts = Path(frame.filename).parts
        # the innermost folder: that of a checkout may have such a name, too
        at = max((i for i, part in enumerate(parts) if part in OWNERS), default=None)
        if at is not None:
            return f"{parts[at]} {'/'.join(parts[at + 1 :])}:{frame.lineno} {frame.name}"
    return "others"


def host_seconds(work: Callable[[], Any], calls: int, repeats: int = 5) -> float:
    """Return the seconds that the CPU needs for one ``work()``, without waiting for the GPU.

    Args:
        work: A work that is so small that the GPU is done before the CPU.
        calls: The number of calls that are timed together.
        repeats: The number of times, of which the median counts.
    """
    times = []
    for _ in range(repeats + 1):  # the first one warms up
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            work()
        times.append((time.perf_counter() - start) / calls)
    return statistics.median(times[1:])
