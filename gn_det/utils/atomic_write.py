"""Files that are there whole or not at all, whenever the machine stops."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["SaveError", "atomic_write"]


class SaveError(OSError):
    """A file could not be saved; what was there before is as it was."""


def atomic_write(path: str | Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file beside its place, bring it to the disk, and put it in its place at once.

    A write that was cut off leaves ``.NAME.part`` behind, which the next one of that name takes.

    Args:
        path: of the file; its folder exists.
        write: writes the content to a binary file. Called once.

    Raises:
        SaveError: the disk is full, the folder is read-only, a network disk is gone, ...
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as raw:
            file = _Watched(raw)
            try:
                write(file)
            except Exception:
                if file.error is not None:  # torch.save hides it behind an error of its own
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


class _Watched:
    """A file that remembers the error of a write."""

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
    """Bring the name to the disk as well, where the system can."""
    with contextlib.suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
