"""Opens a file that a user names: never a pipe; and names what it is where it is something else."""

import errno
import os
import stat
from typing import BinaryIO

__all__ = ["identify_content", "open_regular"]

_SIGNATURES = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run `git lfs pull`",
    b"<!DOCTYPE": "a web page: the download failed, get the file again",
    b"<!doctype": "a web page: the download failed, get the file again",
    b"<html": "a web page: the download failed, get the file again",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"BZh": "compressed with bzip2: unpack it first",
    b"\xfd7zXZ": "compressed with xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard: unpack it first",
    b"PK\3\4": "a zip archive: unpack it first",
    b"%PDF": "a PDF document",
    b"\x93NUMPY": "an array of NumPy: write it as a PNG or TIFF",
    b"\x7fELF": "a program",
}


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Open a regular file to read bytes. A pipe could block forever, a device might never end.

    Args:
        path: The path of the file.

    Raises:
        IsADirectoryError: The path is a folder.
        OSError: The file does not exist, may not be read, or is a pipe or a device. ``strerror``
            says which, for a person.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a NUL or half a surrogate pair in its name
        raise OSError(errno.EINVAL, f"no file can have this name: {error}") from None
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")
    return open(path, "rb")  # noqa: SIM115 the caller closes it


def identify_content(head: bytes) -> str:
    """Return what a file is, for a person, judged by its first bytes; ``""`` where unknown.

    Args:
        head: The first bytes of the file, at least 132 where it has as many.
    """
    if head[128:132] == b"DICM":
        return "DICOM: write its values (in CT: Hounsfield units) as a TIFF, one for each slice"
    return next((what for start, what in _SIGNATURES.items() if head.startswith(start)), "")
