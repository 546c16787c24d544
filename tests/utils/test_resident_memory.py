"""Memory of the process: it grows by what is allocated, and the peak stays."""

import sys

import numpy as np
import pytest

from gn_det.utils import resident_bytes

SIZE = 256 * 2**20
SLACK = 2**22  # Linux updates its counters late


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_now_and_peak():
    before = resident_bytes("VmRSS")
    array = np.ones(SIZE, dtype=np.uint8)
    during = resident_bytes("VmRSS")
    assert during - before == pytest.approx(SIZE, rel=0.05)
    assert resident_bytes("VmHWM") >= during - SLACK
    del array
    assert resident_bytes("VmRSS") - before < SIZE / 2
    assert resident_bytes("VmHWM") >= during - SLACK


def test_without_proc(monkeypatch):
    monkeypatch.setattr("gn_det.utils.resident_memory.Path.exists", lambda path: False)
    assert resident_bytes("VmRSS") > 0


def test_without_any_count(monkeypatch):
    monkeypatch.setattr("gn_det.utils.resident_memory.Path.exists", lambda path: False)
    monkeypatch.setitem(sys.modules, "resource", None)
    assert resident_bytes("VmHWM") == 0
