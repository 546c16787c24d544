"""Opening a file that a user names: never a pipe, and with a word on what it is instead."""

import os
import stat
from typing import BinaryIO

__all__ = ["instead_of", "open_regular"]

_STARTS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run `git lfs pull`",
    b"<!DOCTYPE": "a web page: the download failed, get the file again",
    b"<!doctype": "a web page: the download failed, get the file again",
    b"<html": "a web page: the download failed, get the file again",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"PK\3\4": "a zip archive: unpack it first",
}


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Open a file to read bytes. A pipe would wait for ever, a device might never end.

    Raises:
        OSError: with a ``strerror`` for a person; no such file, no right to read, or no file.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a NUL or half a surrogate pair in its name
        raise OSError(0, f"no file can have this name: {error}") from None
    if stat.S_ISDIR(mode):
        raise OSError(0, "it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(0, "it is a pipe or a device, not a file")
    return open(path, "rb")  # noqa: SIM115 the caller closes it


def instead_of(head: bytes) -> str:
    """Return what a file is by its first bytes, where that is known; else ""."""
    return next((what for start, what in _STARTS.items() if head.startswith(start)), "")
