"""Ends a run in which a process has fallen silent: it was stopped, or its machine is cut off.

No connection breaks then, and the others would wait for PyTorch's time-out, half an hour. So a
thread of each process counts up in the run's store, whatever else the process does: one that
evaluates, saves to a slow disk or waits for data is not silent. Rank 0 watches all counts, the
others that of rank 0, and whoever finds one that stands still ends itself; the process that started
it ends the rest of its machine. Rank 0 first tells the others whom it found.

What is left is a call into C that keeps Python's lock (GIL): reading a json of 1 GB takes 20 s or
so. Hence two minutes.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch.distributed as dist
from detectron2.utils import comm

from gn_det.config import ConfigError

__all__ = ["HeartbeatMonitor", "watched"]

VARIABLE = "GN_DET_SILENT_AFTER"  # seconds; 0 waits for PyTorch's time-out
DEFAULT = 120.0
ENDED = 2**40  # added to the count of a process that has come to its end: it is not silent
TOLD = "silent"  # the key under which rank 0 tells whom it found


@contextmanager
def watched(host: str, port: int) -> Iterator[None]:
    """Watch all processes of the run inside; in each of them, once the process group is there.

    Args:
        host: of the process group's store.
        port: likewise.

    Raises:
        ConfigError: ``GN_DET_SILENT_AFTER`` is no number of seconds.
    """
    limit = _limit()
    if not limit or comm.get_world_size() == 1:
        yield
        return
    # a connection of its own: the process group's is taken while it waits for another process
    store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False)
    # torchrun's store outlives the workers
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"alive_{restarts}", store)
    watch = HeartbeatMonitor(store, comm.get_rank(), comm.get_world_size(), limit)
    watch.start()
    try:
        yield
    finally:
        watch.end()


def _limit() -> float:
    value = os.environ.get(VARIABLE, str(DEFAULT))
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise ConfigError(f"{VARIABLE} is {value!r}: a number of seconds, or 0 for no watch.")
    return seconds


class HeartbeatMonitor:
    """Counts for one process, and watches others.

    Args:
        store: of the run.
        rank: of this process.
        world_size: number of processes.
        limit: seconds without a count after which a process is silent. Only the time in which this
            process ran itself counts: after Ctrl-Z, or a night asleep, none is silent at once.
        leave: called with the rank of a silent one; by default it ends this process.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        world_size: int,
        limit: float,
        leave: Callable[[int], None] | None = None,
    ):
        self._store, self._rank, self._limit = store, rank, limit
        self._watched = range(1, world_size) if rank == 0 else (0,)
        self._leave = leave or self._end_process
        self._period = min(5.0, limit / 10)
        self._counts: dict[int, int] = {}
        self._over = threading.Event()
        # two: the store does not answer where the process that holds it is silent
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._count_up, self._look)
        ]

    def start(self) -> None:
        """Begin, in threads."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Say that this process ends, and stop."""
        self._over.set()
        self._threads[0].join(timeout=5.0)

    def _count_up(self) -> None:
        try:
            while True:
                self._store.add(str(self._rank), 1)
                for other in self._watched:
                    self._counts[other] = self._store.add(str(other), 0)  # 0 reads
                # rank 0 knows, and has to stay until the others know
                if self._rank > 0 and (told := self._store.add(TOLD, 0)):
                    self._leave(told - 1)
                if self._over.wait(self._period):
                    break
            self._store.add(str(self._rank), ENDED)
        except RuntimeError:
            # the connection is broken, as those of the process group are: nothing is silent here
            self._over.set()

    def _look(self) -> None:
        before: dict[int, int | None] = dict.fromkeys(self._watched)
        still = dict.fromkeys(self._watched, 0)  # for how many looks
        while not self._over.wait(self._period):
            for other in self._watched:
                count = self._counts.get(other, 0)
                still[other] = still[other] + 1 if count == before[other] else 0
                before[other] = count
                if still[other] * self._period >= self._limit and count < ENDED:
                    if self._rank == 0:
                        with suppress(RuntimeError):
                            self._store.add(TOLD, other + 1)
                        time.sleep(2 * self._period)  # for them to read it
                    self._leave(other)
                    return

    def _end_process(self, silent: int) -> None:
        print(
            f"error: rank {silent} has been silent for {self._limit:g} s: its process was stopped, "
            f"or its machine or the network is down. Rank {self._rank} ends for that reason. "
            f"--resume goes on from the last checkpoint. ({VARIABLE} sets the seconds.)",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)  # the main thread sits in a collective
