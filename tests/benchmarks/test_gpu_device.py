import time
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from benchmarks import timing
from benchmarks.gpu import device
from benchmarks.gpu.device import (
    PeakMemory,
    by_owner,
    count_synchronizations,
    device_activity,
    held_bytes,
    host_seconds,
)
from benchmarks.timing import device_seconds_of, interleave

cpu_alone = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def _called_from(*paths):
    """Return a function that waits for the GPU, called from these files, the outermost first."""
    call = partial(warnings.warn, "called a synchronizing CUDA operation")
    for path in reversed(paths):
        scope = {"call": call}
        exec(compile("def step():\n    call()\n", path, "exec"), scope)
        call = scope["step"]
    return call


def test_who_lets_the_cpu_wait(monkeypatch):
    monkeypatch.setattr(device, "DEVICE", "cpu")
    rpn, step, clip = (
        "/me/gn_det/x/detectron2/rpn.py",
        "/me/gn_det/engine/step.py",
        "/torch/clip.py",
    )
    calls = [_called_from(step), _called_from(rpn, step, clip), _called_from(step, rpn, clip)]

    def work():
        for call in calls:
            call()
        warnings.warn("something else", stacklevel=1)

    found = count_synchronizations(work)
    assert (found["gn_det"], found["detectron2"], found["benchmarks"]) == (2, 1, 0)
    assert found["lines"] == {"gn_det engine/step.py:2 step": 2, "detectron2 rpn.py:2 step": 1}


def test_owners_of_nothing():
    found = by_owner(device.Counter())
    assert found == {"gn_det": 0, "detectron2": 0, "benchmarks": 0, "lines": {}}


def test_overlapping_kernels_count_once():
    assert device._covered([]) == 0
    assert device._covered([(0, 3), (1, 2), (2, 5), (7, 8)]) == 6


def test_activity_of_a_gpu(monkeypatch):
    """The profiler's events of a GPU: two kernels, an annotation around them, and a CPU's event."""

    def event(name, start, end, kind="CUDA", annotation=False):
        span = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
        kind = getattr(torch.autograd.DeviceType, kind)
        return SimpleNamespace(
            name=name, time_range=span, device_type=kind, is_user_annotation=annotation
        )

    events = [
        event("norm", 0, 30),
        event("copy", 100, 110),
        event("norm", 110, 130),
        event("Optimizer.step", 0, 130, annotation=True),
        event("aten::add", 0, 500, kind="CPU"),
    ]

    class Profile:
        def __init__(self, activities):
            pass

        def __enter__(self):
            return SimpleNamespace(events=lambda: events)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(device, "profile", Profile)
    found = device_activity(lambda: None)
    assert found["busy_seconds"] == pytest.approx(60e-6)
    assert found["launches"] == 3
    assert [(name, count) for name, count, _ in found["top"]] == [("norm", 2), ("copy", 1)]
    assert found["top"][0][2] == pytest.approx(50e-6)


class _Gpu:
    """What PyTorch's allocator says of a GPU."""

    def __init__(self, monkeypatch):
        self.allocated, self.cached, self.peaks, self.modes = 100, 40, [0, 0], []
        functions = {
            "synchronize": lambda: None,
            "memory_allocated": lambda: self.allocated,
            "memory_reserved": lambda: self.allocated + self.cached,
            "max_memory_allocated": lambda: self.peaks[0],
            "max_memory_reserved": lambda: self.peaks[1],
            "empty_cache": lambda: setattr(self, "cached", 0),
            "reset_peak_memory_stats": self._reset,
            "set_sync_debug_mode": self.modes.append,
        }
        for name, function in functions.items():
            monkeypatch.setattr(torch.cuda, name, function)
        monkeypatch.setattr(device, "DEVICE", "cuda")

    def _reset(self):
        self.peaks = [self.allocated, self.allocated + self.cached]

    def allocate(self, size):
        self.allocated += size
        self.peaks[0] = max(self.peaks[0], self.allocated)
        self.peaks[1] = max(self.peaks[1], self.allocated + self.cached)


def test_memory_of_a_gpu(monkeypatch):
    gpu = _Gpu(monkeypatch)
    memory = PeakMemory()
    gpu.allocate(30)  # a model
    gpu.allocate(500)  # building it
    gpu.allocate(-500)
    memory.restart()
    gpu.allocate(70)
    gpu.allocate(-70)
    assert memory.read() == {"peak_allocated": 100, "peak_reserved": 100}
    assert held_bytes(lambda: gpu.allocate(12)) == 12


def test_synchronizations_are_watched_in_the_block_alone(monkeypatch):
    gpu = _Gpu(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        count_synchronizations(lambda: 1 / 0)
    assert gpu.modes == ["warn", "default"]


def test_time_between_events(monkeypatch):
    did = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            did.append("event")

        def synchronize(self):
            did.append("wait")

        def elapsed_time(self, end):
            return 250.0

    buffer = SimpleNamespace(sum=lambda: did.append("flush"))
    monkeypatch.setattr(timing, "_flush_buffer", lambda: buffer)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert device_seconds_of(lambda: did.append("work")) == 0.25
    assert did == ["flush"] * 3 + ["event", "work", "event", "wait"]


@cpu_alone
def test_without_a_gpu_there_is_nothing_to_measure():
    memory = PeakMemory()
    memory.restart()
    assert memory.read() == {"peak_allocated": 0, "peak_reserved": 0}
    calls = []
    assert held_bytes(lambda: calls.append(1)) == 0
    assert device_activity(lambda: calls.append(1))["launches"] == 0
    assert len(calls) == 2


@cpu_alone
def test_time_on_the_device():
    assert 0.02 <= device_seconds_of(lambda: time.sleep(0.02)) < 2
    times = interleave({"a": lambda: None}, 2, 0, clock=lambda work: 7.0)
    assert times == {"a": [7.0, 7.0]}


def test_host_seconds():
    calls = []
    assert 0.001 <= host_seconds(lambda: (calls.append(1), time.sleep(0.001)), 5, repeats=3) < 0.1
    assert len(calls) == 5 * 4
