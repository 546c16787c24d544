"""A process that falls silent ends the others. Here each process is a pair of threads."""

import queue
import time

import pytest
import torch.distributed as dist

from gn_det.config import ConfigError
from gn_det.engine.distributed.heartbeat import HeartbeatMonitor, watched

LIMIT = 1.0


class Process:
    """One of three processes; it notes whom it would leave for."""

    def __init__(self, store, rank):
        self.left = queue.Queue()
        self.watch = HeartbeatMonitor(store, rank, 3, LIMIT, leave=self.left.put)

    def leaves_for(self):
        return self.left.get(timeout=60)


@pytest.fixture
def start():
    """Return a function that starts processes by their ranks, and return them."""
    started = []

    def start(*ranks, store=None):
        store = store or dist.HashStore()
        processes = [Process(store, rank) for rank in ranks]
        for process in processes:
            process.watch.start()
        started.extend(processes)
        return processes

    yield start
    for process in started:
        process.watch.end()


def test_rank_0_finds_a_silent_one_and_tells_the_others(start):
    first, second = start(0, 2)
    assert first.leaves_for() == 1
    assert second.leaves_for() == 1


def test_the_others_find_that_rank_0_is_silent(start):
    for process in start(1, 2):
        assert process.leaves_for() == 0


class Unanswered:
    """A store whose process is stopped: nobody answers."""

    def add(self, key, amount):
        time.sleep(3600)


def test_a_store_that_does_not_answer_is_rank_0s(start):
    (process,) = start(1, store=Unanswered())
    assert process.leaves_for() == 0


def test_nobody_leaves_while_all_count_or_have_ended(start):
    processes = start(0, 1, 2)
    time.sleep(2 * LIMIT)
    processes[1].watch.end()
    time.sleep(2 * LIMIT)
    processes[0].watch.end()
    time.sleep(2 * LIMIT)
    assert all(process.left.empty() for process in processes)


class Broken:
    """A store whose process has ended."""

    def add(self, key, amount):
        raise dist.DistNetworkError("connection reset by peer")


def test_a_broken_connection_is_no_silence(start):
    (process,) = start(1, store=Broken())
    time.sleep(2 * LIMIT)
    assert process.left.empty()


@pytest.mark.parametrize("value", ["-1", "soon", "nan"])
def test_a_limit_that_is_none(monkeypatch, value):
    monkeypatch.setenv("GN_DET_SILENT_AFTER", value)
    with pytest.raises(ConfigError, match=f"GN_DET_SILENT_AFTER is '{value}'"), watched("", 0):
        pass


def test_one_process_is_not_watched():
    with watched("nowhere", 0):
        pass
