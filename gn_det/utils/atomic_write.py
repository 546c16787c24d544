"""Write a file so that it is never incomplete, even if the machine stops."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

__all__ = ["SaveError", "atomic_write"]


class SaveError(OSError):
    """A file could not be saved. A previous file of that name is unchanged."""


def atomic_write(path: str | Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a temporary file next to ``path``, flush it to the disk, and rename it to ``path``.

    An interrupted write leaves the file ``.NAME.part``, which the next write replaces.

    Args:
        path: The path of the file. Its folder exists.
        write: A function that writes the content to a binary file. It is called once.

    Raises:
        SaveError: The file cannot be written: the disk is full, the folder is read-only, ...
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as raw:
            file = _RecordsError(raw)
            try:
                write(cast(BinaryIO, file))
            except Exception:
                if file.error is not None:  # torch.save hides it behind its own error
                    raise file.error from None
                raise
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise SaveError(f"{path} could not be saved: {error.strerror or error}") from error


class _RecordsError:
    """A binary file for writing that keeps the error of a failed write."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _sync_folder(folder: Path) -> None:
    """Flush the rename to the disk, if the system can."""
    with contextlib.suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
