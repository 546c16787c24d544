"""Which image a loader was at when something went wrong, also where its process is gone.

A worker that is killed says nothing any more. So each one notes the image that it reads in memory
that it shares with the training process.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.sharedctypes import RawArray
from typing import Any

from detectron2.data.detection_utils import SizeMismatchError
from torch.utils.data import get_worker_info

from .errors import DatasetError

__all__ = ["MapperError", "WorkerDied", "WorkerWatch"]

# how PyTorch says it; in the first case from a signal handler, wherever the main process is
_DIED = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) "
    r"(is killed by signal: [^.]+|exited unexpectedly(?: with exit code \d+)?)"
)
_MOSTLY = {
    "Segmentation fault": "Mostly the file is damaged: gn-det check-dataset finds such files.",
    "Bus error": "There was too little shared memory: give /dev/shm more.",
    "Killed": "Mostly the system does so when it is out of memory: lower DATALOADER.NUM_WORKERS.",
}
_UNREADABLE = (OSError, SizeMismatchError)


class MapperError(RuntimeError):
    """The mapper of training images failed in a way that nobody expected; the cause stays."""


class WorkerDied(RuntimeError):
    """A process that loads images was killed."""


class WorkerWatch:
    """Knows which record each worker is at.

    Args:
        records: the dataset; a dict's ``file_name`` is what is shown of it.
        num_workers: 0 where the main process loads.
    """

    def __init__(self, records: Sequence[Any], num_workers: int):
        self.records = records
        # for each worker its process, 1 + its record, and whether it is at work on it
        self._notes = RawArray("q", 3 * num_workers)

    @contextmanager
    def at(self, index: int) -> Iterator[None]:
        """Let what happens inside count as work on the record ``index``.

        Raises:
            DatasetError: the image cannot be read, or the mapper said so.
            MapperError: another exception of the mapper. Each is of one line and names the image.
        """
        info = get_worker_info()
        if info:
            self._notes[3 * info.id : 3 * info.id + 3] = os.getpid(), index + 1, 1
        try:
            yield
        except Exception as error:
            raise self._failed(index, error) from error
        finally:
            if info:
                self._notes[3 * info.id + 2] = 0

    def batches(self, loader: Iterator[Any]) -> Iterator[Any]:
        """Yield what a loader yields; its errors become those of :meth:`at` and :meth:`died`."""
        try:
            while True:
                yield next(loader)
        except StopIteration:
            return
        except (DatasetError, MapperError) as error:
            text = str(error)
            if not text.startswith("Caught "):
                raise
            # a worker's: PyTorch made the whole trace of it the message, and is in the way here
            kind = DatasetError if isinstance(error, DatasetError) else MapperError
            raise kind(text.splitlines()[-1].partition(": ")[2]) from error.with_traceback(None)
        except RuntimeError as error:
            if died := self.died(error):
                raise died from error.with_traceback(None)
            raise
        finally:
            del loader  # its processes end now, and not when an error's trace is forgotten

    def died(self, error: BaseException) -> WorkerDied | None:
        """Return what a PyTorch error about dead workers means; None for any other error."""
        if not isinstance(error, RuntimeError) or isinstance(error, WorkerDied):
            return None
        found = _DIED.search(str(error))
        if not found:
            return None
        # where the process waited for the worker, the signal is only in the cause
        cause = _DIED.search(str(error.__cause__)) or found
        pids = {int(pid) for pid in found[1].split(",")}
        at = list(self._places(pids)) or ["It had not begun with an image."]
        mostly = next((text for how, text in _MOSTLY.items() if how in cause[2]), "")
        what = f"A process that loads images {cause[2]} (pid {found[1]})."
        return WorkerDied(" ".join([what, *dict.fromkeys(at), mostly]).strip())

    def _name(self, index: int) -> str:
        record = self.records[index]
        name = record.get("file_name") if isinstance(record, dict) else None
        return str(name) if name else f"record {index} of the data"

    def _failed(self, index: int, error: Exception) -> Exception:
        name = self._name(index)
        what = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, DatasetError):
            return DatasetError(what if name in what else f"{name}: {what}")
        if isinstance(error, _UNREADABLE):
            return DatasetError(
                f"{name} cannot be read: {what}. gn-det check-dataset finds all such images."
            )
        return MapperError(f"{name}: the mapper failed with {type(error).__name__}: {what}")

    def _places(self, pids: set[int]) -> Iterator[str]:
        for pid, number, busy in zip(*(self._notes[i::3] for i in range(3))):
            if pid in pids and number:
                when = "It was at" if busy else "It was between two images, the last being"
                yield f"{when} {self._name(number - 1)}."
