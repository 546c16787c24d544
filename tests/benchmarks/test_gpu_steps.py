import time

import pytest
import torch

from benchmarks.gpu import steps
from benchmarks.gpu.session import Section
from benchmarks.gpu.steps import ANCHORS, STOCK_CHANNELS_LAST, setting
from benchmarks.train import TrainStep
from benchmarks.workload import Workload


@pytest.fixture
def section(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "LEAST", 0.0)
    return Section(tmp_path / "rows.json", True, time.monotonic() + 60)


def _measure(section, groups, work_of):
    inspect = {"busy_seconds": 0.0}
    steps._in_groups(
        section, groups, work_of, lambda name, work, row: row.update(inspect) or {}, lambda w: None
    )
    return section.rows


def test_a_variant_that_fails_costs_itself_alone(section):
    def work_of(name):
        def work():
            if name in (ANCHORS[0], "b"):
                raise RuntimeError(f"out of memory: {name}")

        return work

    rows = _measure(section, [[*ANCHORS, "a", "b"], ["c"]], work_of)
    for name in (ANCHORS[0], "b"):
        assert f"out of memory: {name}" in rows[name]["error"]
    for name in ("a", "c"):
        assert rows[name]["seconds"] > 0
        assert list(rows[name]["time_over"]) == [ANCHORS[1]]
    assert len(rows) == 5


def test_a_variant_that_fails_while_it_is_timed_costs_its_group(section):
    calls = []

    def work_of(name):
        def work():
            calls.append(name)
            if name == "a" and calls.count(name) > 2:
                raise RuntimeError("out of memory")

        return work

    rows = _measure(section, [[ANCHORS[1], "a"], ["c"]], work_of)
    assert "out of memory" in rows[f"times of {ANCHORS[1]}, a"]["error"]
    assert rows["a"] == {**rows["a"], "busy_seconds": 0.0}
    assert rows["c"]["time_over"].keys() == {ANCHORS[1]}


def test_no_round_begins_when_the_time_is_up(section, monkeypatch):
    section.dry = False
    section.until = time.monotonic() + 3
    monkeypatch.setattr(steps, "BLOCKS", 1000)
    rows = _measure(section, [["a"]], lambda name: lambda: time.sleep(0.05))
    assert 3 <= len(rows["a"]["times"]) < 30


def test_stock_in_channels_last():
    workload = Workload(setting(True, 1))
    step = steps._converted(STOCK_CHANNELS_LAST, TrainStep(workload, STOCK_CHANNELS_LAST))
    outputs = []
    step.model.backbone.register_forward_hook(lambda *args: outputs.append(args[-1]))
    step()
    for x in outputs[0].values():
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert not x.is_contiguous() or 1 in x.shape
