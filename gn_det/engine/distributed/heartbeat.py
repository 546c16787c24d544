"""Ends a run in which the heartbeat of a process stops: it is stopped, or its machine is cut off.

No connection breaks then, and the others would wait for PyTorch's time-out, half an hour. So a
thread of each process counts up in the run's store, whatever else the process does: one that
evaluates, saves to a slow disk or waits for data has a heartbeat. Rank 0 watches all counts, the
others that of rank 0. Who finds a count that stands still ends its own process, and the program
that started it ends the rest of its machine. Rank 0 first publishes the rank that it found.

Only a call into C that holds Python's lock (GIL) stops the heartbeat of a process at work: reading
a json of 1 GB takes 20 s or so. Hence the limit of two minutes.
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

__all__ = ["HeartbeatMonitor", "heartbeat_monitored"]

VARIABLE = "GN_DET_HEARTBEAT_TIMEOUT"  # seconds; 0 waits for PyTorch's time-out
OLD_VARIABLE = "GN_DET_SILENT_AFTER"  # its earlier name
DEFAULT = 120.0
ENDED = 2**40  # added to the count of a process that has ended: it needs no heartbeat
LOST_RANK = "lost"  # the key under which rank 0 publishes 1 + the rank that it found


@contextmanager
def heartbeat_monitored(host: str, port: int) -> Iterator[None]:
    """Monitor all processes of a run inside the block, which each of them enters.

    The process group has to be there.

    Args:
        host: The host of the process group's store.
        port: The port of the process group's store.

    Raises:
        ConfigError: ``GN_DET_HEARTBEAT_TIMEOUT`` is no number of seconds.
    """
    limit = _limit()
    if not limit or comm.get_world_size() == 1:
        yield
        return
    # a connection of its own: the process group's is taken while it waits for another process
    tcp_store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False)
    # torchrun's store outlives the workers
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"alive_{restarts}", tcp_store)
    monitor = HeartbeatMonitor(store, comm.get_rank(), comm.get_world_size(), limit)
    monitor.start()
    try:
        yield
    finally:
        monitor.end()


def _limit() -> float:
    name = OLD_VARIABLE if OLD_VARIABLE in os.environ and VARIABLE not in os.environ else VARIABLE
    value = os.environ.get(name, str(DEFAULT))
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise ConfigError(f"{name} is {value!r}. It takes a number of seconds; 0 for no limit.")
    return seconds


class HeartbeatMonitor:
    """The heartbeat of one process, and a watch on those of others.

    Args:
        store: The store of the run.
        rank: The rank of this process.
        world_size: The number of processes.
        limit: The seconds without a count after which a process is lost. Only the time in which
            this process itself runs counts: after Ctrl-Z, or a night asleep, none is lost at once.
        on_lost: A function that is called with the rank of a lost process; default: end this one.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        world_size: int,
        limit: float,
        on_lost: Callable[[int], None] | None = None,
    ):
        self._store, self._rank, self._limit = store, rank, limit
        self._watched = range(1, world_size) if rank == 0 else range(1)
        self._on_lost = on_lost or self._end_process
        self._period = min(5.0, limit / 10)
        self._counts: dict[int, int] = {}
        self._over = threading.Event()
        # two: the store does not answer where the process that holds it is stopped
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._count_up, self._watch)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Publish that this process ends, and stop the threads."""
        self._over.set()
        self._threads[0].join(timeout=5.0)

    def _count_up(self) -> None:
        try:
            while True:
                self._store.add(str(self._rank), 1)
                for other in self._watched:
                    self._counts[other] = self._store.add(str(other), 0)  # 0 reads
                # rank 0 knows, and has to stay until the others know
                if self._rank > 0 and (lost := self._store.add(LOST_RANK, 0)):
                    self._on_lost(lost - 1)
                if self._over.wait(self._period):
                    break
            self._store.add(str(self._rank), ENDED)
        except RuntimeError:
            # the connection is broken, as those of the process group are, which says so itself
            self._over.set()

    def _watch(self) -> None:
        before: dict[int, int | None] = dict.fromkeys(self._watched)
        still = dict.fromkeys(self._watched, 0)  # periods in which a count stood still
        while not self._over.wait(self._period):
            for other in self._watched:
                count = self._counts.get(other, 0)
                still[other] = still[other] + 1 if count == before[other] else 0
                before[other] = count
                if still[other] * self._period >= self._limit and count < ENDED:
                    if self._rank == 0:
                        with suppress(RuntimeError):
                            self._store.add(LOST_RANK, other + 1)
                        time.sleep(2 * self._period)  # until the others have read it
                    self._on_lost(other)
                    return

    def _end_process(self, lost: int) -> None:
        print(
            f"error: rank {lost} has sent no heartbeat for {self._limit:g} s: its process was "
            f"stopped, or its machine or the network is down. So rank {self._rank} ends as well. "
            f"--resume continues from the last checkpoint. ({VARIABLE} sets the seconds.)",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)  # the main thread waits in a collective
