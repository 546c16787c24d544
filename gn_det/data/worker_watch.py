"""Names the image at which a loader failed, even if its process was killed.

A killed worker cannot report anything. So each worker notes the image that it reads in memory that
it shares with the training process.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.sharedctypes import RawArray
from typing import Any, Protocol

from detectron2.data.detection_utils import SizeMismatchError
from torch.utils.data import get_worker_info

from .errors import DatasetError

__all__ = ["MapperError", "Records", "WorkerDied", "WorkerWatch"]

# PyTorch's message. The first one comes from a signal handler, wherever the main process is.
_DIED = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) "
    r"(is killed by signal: [^.]+|exited unexpectedly(?: with exit code \d+)?)"
)
_LIKELY_CAUSES = {
    "Segmentation fault": "The file is probably damaged: gn-det check-dataset finds such files.",
    "Bus error": "There was too little shared memory: make /dev/shm larger.",
    "Killed": "The system was probably out of memory: lower DATALOADER.NUM_WORKERS.",
}
_UNREADABLE = (OSError, SizeMismatchError)


class Records(Protocol):
    """What a loader needs of a dataset: the number of records, and each one by its place."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class MapperError(RuntimeError):
    """The mapper of training images failed with an unexpected error, which is the cause of this."""


class WorkerDied(RuntimeError):
    """A process that loads images was killed."""


class WorkerWatch:
    """Knows which record each worker works on.

    Args:
        records: The dataset. A record that is a dict is named by its ``file_name``.
        num_workers: The number of processes that load images; 0 where the main process loads them.
    """

    def __init__(self, records: Records, num_workers: int):
        self.records = records
        # for each worker: its process, 1 + its record, and whether it works on it now
        self._notes = RawArray("q", 3 * num_workers)

    @contextmanager
    def at(self, index: int) -> Iterator[None]:
        """Note that the block works on a record, and name its image in errors, in one line.

        Args:
            index: The place of the record in the dataset.

        Raises:
            DatasetError: The image cannot be read, or the mapper raised a DatasetError.
            MapperError: The mapper raised another exception.
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
        """Yield the batches of a loader. Its errors become those of :meth:`at` and :meth:`died`.

        Args:
            loader: The iterator of a PyTorch loader.
        """
        try:
            while True:
                yield next(loader)
        except StopIteration:
            return
        except (DatasetError, MapperError) as error:
            text = str(error)
            if not text.startswith("Caught "):
                raise
            # of a worker: PyTorch put the whole trace into the message; its last line is ours
            kind = DatasetError if isinstance(error, DatasetError) else MapperError
            raise kind(text.splitlines()[-1].partition(": ")[2]) from error.with_traceback(None)
        except RuntimeError as error:
            if died := self.died(error):
                raise died from error.with_traceback(None)
            raise
        finally:
            del loader  # its processes end now, not when the trace of an error is freed

    def died(self, error: BaseException) -> WorkerDied | None:
        """Return the error that names the image, for a PyTorch error about a dead worker.

        Args:
            error: Any error.

        Returns:
            The error; None where ``error`` is another one.
        """
        if not isinstance(error, RuntimeError) or isinstance(error, WorkerDied):
            return None
        found = _DIED.search(str(error))
        if not found:
            return None
        # where the main process waited for the worker, only the cause has the signal
        cause = _DIED.search(str(error.__cause__)) or found
        pids = {int(pid) for pid in found[1].split(",")}
        at = list(self._places(pids)) or ["It had not started with an image."]
        likely = next((text for how, text in _LIKELY_CAUSES.items() if how in cause[2]), "")
        what = f"A process that loads images {cause[2]} (pid {found[1]})."
        return WorkerDied(" ".join([what, *dict.fromkeys(at), likely]).strip())

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
                when = "It was at" if busy else "It was between two images; the last one was"
                yield f"{when} {self._name(number - 1)}."
