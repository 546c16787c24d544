"""Reading a file of weights by its content, whatever its name ends with, without running code."""

import contextlib
import gc
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from gn_det.utils import identify_content, shorten

from .errors import WeightsError
from .safe_content import Placeholder, check_content
from .safe_numpy import BUILDS, CALLS, is_array
from .safe_pickle import MAX_OPERATIONS, DamagedPickle, load_pickle
from .safe_torch import LEGACY_MAGIC, is_tar, is_torch, load_torch_legacy, load_torch_zip
from .safetensors_file import is_safetensors, load_safetensors

__all__ = ["load_file"]

logger = logging.getLogger(__name__)

_WEB_PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|\?xml|!--)", re.IGNORECASE
)

# of weights; those of other files are in identify_content
_OTHER_FORMATS = {
    b"\x93NUMPY": "a single array (.npy), not named weights",
    b"\x89HDF": "an HDF5 file: convert it to a PyTorch state_dict first",
}


def load_file(path: str | Path, *, warn: bool = True) -> dict[str, Any]:
    """Read a pickle of arrays, or a file of ``torch.save`` or safetensors, by its content.

    Detectron's and Detectron2's ``.pkl`` (Python 2 and 3, protocol 0 to 5, NumPy 1 and 2),
    PyTorch's zip and older files, and safetensors, whose tensors are under "model". Arrays,
    tensors, numbers, strings and containers are read. An object of another class is left out, with
    a line in the log that says which: a
    :class:`~gn_det.checkpoint.safe_content.Placeholder` stands in its place. No code of the file
    is run, and memory stays within a small multiple of the file's size.

    Args:
        path: The path of a file on this machine.
        warn: Whether to log what is left out.

    Returns:
        The content as it was saved: arrays stay NumPy's, tensors are PyTorch's on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: The file reaches for the system, is damaged or of another format, or holds no
            dict. The message is one line.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"Weights file '{path}' does not exist.")
    if not path.is_file():
        raise WeightsError(f"{path} is a folder or a device, not a file of weights.")
    try:
        with _no_garbage_collection(), path.open("rb") as file:
            content = _load(file, path)
            left_out = check_content(content, MAX_OPERATIONS, _is_data)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}.") from error.__cause__
    except OSError as error:
        raise WeightsError(f"{path}: it cannot be read ({error.strerror or error}).") from error
    if type(content) is Placeholder:
        raise WeightsError(
            f"{path}: it holds an object of {shorten(content.name)}, not weights by name: save the "
            "model's state_dict() instead."
        )
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: it holds a {type(content).__name__}, not weights by name.")
    if left_out and warn:
        logger.warning(f"{path}: left out, neither tensors nor plain data: {left_out}.")
    return content


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep it from walking through hundreds of thousands of new objects again and again."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _is_data(item: Any) -> bool:
    return is_array(item) or is_torch(item)


def _load(file: BinaryIO, path: Path) -> Any:
    size = os.fstat(file.fileno()).st_size
    head = file.read(512)
    file.seek(0)
    if not head.strip(b"\0 \r\n\t"):
        raise WeightsError("it is empty" if not head else "it starts with blanks, and is no pickle")
    if _WEB_PAGE.match(head):
        raise WeightsError(
            "it is a web page, not weights: the download probably failed (a login, an error or "
            "a preview page was saved); get the file itself"
        )
    for magic, what in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise WeightsError(f"it is {what}")
    if is_safetensors(head):
        return load_safetensors(path)
    if is_tar(head):
        raise WeightsError("it is a tar archive (or a file of PyTorch 0.1): unpack it first")
    if head.startswith(b"PK\3\4"):
        return load_torch_zip(file, size)
    if other := identify_content(head):
        raise WeightsError(f"it is {other}")
    if LEGACY_MAGIC in head[:32]:
        return load_torch_legacy(file, size)
    if head[0] > 0x80:  # protocols 2 and later start with 0x80, those before with a letter
        raise WeightsError(
            "it is neither a pickle nor a file of torch.save or safetensors, or it is damaged"
        )
    try:
        return load_pickle(file, size, calls=CALLS, builds=BUILDS)
    except DamagedPickle:
        if not head.startswith(b"\x80") and _is_text(head):
            start = shorten(head[:60].decode(errors="replace"), 70)
            raise WeightsError(f"it is text, not weights: it starts with '{start}'") from None
        raise


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", errors="replace").rstrip("\ufffd")  # cut within a letter
    return all(letter.isprintable() or letter in "\t\r\n" for letter in text)
