"""A process whose heartbeat stops ends the others. Here each process is a pair of threads."""

import queue
import time

import pytest
import torch.distributed as dist

from gn_det.config import ConfigError
from gn_det.engine.distributed.heartbeat import HeartbeatMonitor, _limit, heartbeat_monitored

LIMIT = 1.0


class Process:
    """One of three processes; it notes the rank for which it would end."""

    def __init__(self, store, rank):
        self.lost = queue.Queue()
        self.monitor = HeartbeatMonitor(store, rank, 3, LIMIT, on_lost=self.lost.put)

    def ends_for(self):
        return self.lost.get(timeout=60)


@pytest.fixture
def start():
    """Return a function that starts processes by their ranks, and return them."""
    started = []

    def start(*ranks, store=None):
        store = store or dist.HashStore()
        processes = [Process(store, rank) for rank in ranks]
        for process in processes:
            process.monitor.start()
        started.extend(processes)
        return processes

    yield start
    for process in started:
        process.monitor.end()


def test_rank_0_finds_a_lost_process_and_publishes_it(start):
    first, second = start(0, 2)
    assert first.ends_for() == 1
    assert second.ends_for() == 1


def test_the_others_find_that_rank_0_is_lost(start):
    for process in start(1, 2):
        assert process.ends_for() == 0


class Unanswered:
    """A store whose process is stopped: nobody answers."""

    def add(self, key, amount):
        time.sleep(3600)


def test_a_store_that_does_not_answer_is_rank_0s(start):
    (process,) = start(1, store=Unanswered())
    assert process.ends_for() == 0


def test_nobody_ends_while_all_count_or_have_ended(start):
    processes = start(0, 1, 2)
    time.sleep(2 * LIMIT)
    processes[1].monitor.end()
    time.sleep(2 * LIMIT)
    processes[0].monitor.end()
    time.sleep(2 * LIMIT)
    assert all(process.lost.empty() for process in processes)


class Broken:
    """A store whose process has ended."""

    def add(self, key, amount):
        raise dist.DistNetworkError("connection reset by peer")


def test_a_broken_connection_is_no_lost_heartbeat(start):
    (process,) = start(1, store=Broken())
    time.sleep(2 * LIMIT)
    assert process.lost.empty()


@pytest.mark.parametrize("name", ["GN_DET_HEARTBEAT_TIMEOUT", "GN_DET_SILENT_AFTER"])
@pytest.mark.parametrize("value", ["-1", "soon", "nan"])
def test_a_limit_that_is_none(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name} is '{value}'"), heartbeat_monitored("", 0):
        pass


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, 120.0),
        ({"GN_DET_SILENT_AFTER": "7"}, 7.0),
        ({"GN_DET_HEARTBEAT_TIMEOUT": "0"}, 0.0),
        ({"GN_DET_SILENT_AFTER": "7", "GN_DET_HEARTBEAT_TIMEOUT": "9"}, 9.0),
    ],
)
def test_the_limit_has_an_earlier_name(monkeypatch, variables, seconds):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _limit() == seconds


def test_one_process_is_not_monitored():
    with heartbeat_monitored("nowhere", 0):
        pass
