"""PyTorch's files: looked through with our own pickle machine first, then read by ``torch.load``.

``weights_only=True`` alone is not enough: before PyTorch 2.6 it hands TorchScript archives to
``torch.jit.load`` and unpacks tar files, and every version believes the sizes that a pickle gives
for its storages. So names, sizes and the archive are checked here; nothing is read from it twice
but the pickles, which are small.
"""

import io
import math
import re
import struct
import tarfile
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

from .errors import WeightsError
from .safe_content import shown
from .safe_numpy import PLAIN_BUILDS, PLAIN_CALLS
from .safe_pickle import Budget, DamagedPickle, Global, Vocabulary, load_pickle

__all__ = ["LEGACY_MAGIC", "is_tar", "load_torch_legacy", "load_torch_zip"]

# how the number 0x1950a86a20f9469cfc6c, with which PyTorch's files before 1.6 start, is pickled
LEGACY_MAGIC = b"\x8a\n" + bytes.fromhex("6cfc9c46f9206aa85019") + b"."
_MOST_ZIP_DIRECTORY = 8 << 20  # bytes; some 50,000 tensors
# what zipfile raises, depending on what is damaged
_BAD_ZIP = (zipfile.BadZipFile, EOFError, LookupError, OSError, RuntimeError, ValueError)
_BAD_ZIP += (OverflowError, struct.error)

_ITEM_SIZES = {
    **{"Bool": 1, "Byte": 1, "Char": 1, "Short": 2, "Half": 2, "BFloat16": 2, "Int": 4},
    **{"Float": 4, "Long": 8, "Double": 8, "ComplexFloat": 8, "ComplexDouble": 16},
}
_STORAGES = {f"torch.{name}Storage": size for name, size in _ITEM_SIZES.items()}
_DTYPES = frozenset(
    f"torch.{name}" for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)
)


@dataclass(frozen=True)
class _Storage:
    """The stand-in of a storage: its kind and its length in elements."""

    kind: str
    numel: int


class _Tensor:
    """The stand-in of a tensor or parameter."""


def load_torch_zip(file: BinaryIO, size: int) -> Any:
    """Read what ``torch.save`` of PyTorch 1.6 and later wrote, onto the CPU.

    Args:
        file: a seekable file.
        size: its length in bytes.

    Raises:
        WeightsError: another zip archive, TorchScript, a name that is not needed, or damage.
    """
    _check_zip_directory(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            top, lengths = _check_zip_entries(archive, size)
            data = archive.read(f"{top}/data.pkl")
    except WeightsError:
        raise
    except _BAD_ZIP as error:
        why = shown(error) or type(error).__name__
        raise WeightsError(f"it is a damaged zip archive ({why}): get it again") from error

    def check(kind: str, key: str, numel: int) -> None:
        if lengths.get(f"{top}/data/{key}") != numel * _STORAGES[kind]:
            raise WeightsError(f"it is damaged: the data of storage '{shown(key)}' does not fit")

    load_pickle(io.BytesIO(data), len(data), _vocabulary(5, check, Budget(size)))
    return _torch_load(file)


def load_torch_legacy(file: BinaryIO, size: int) -> Any:
    """Read what ``torch.save`` of PyTorch 0.1 to 1.5 wrote, onto the CPU.

    Args:
        file: a seekable file that starts with :data:`LEGACY_MAGIC`, pickled with protocol 2 or 3.
        size: its length in bytes.

    Raises:
        WeightsError: a name that is not needed, or damage.
    """
    file.seek(0)
    if file.read(2) not in (b"\x80\x02", b"\x80\x03") or file.read(13) != LEGACY_MAGIC:
        raise WeightsError("it was saved with another pickle protocol than 2: save it again")
    lengths: dict[str, int] = {}

    def check(kind: str, key: str, numel: int) -> None:
        lengths[key] = numel * _STORAGES[kind]

    vocabulary = _vocabulary(6, check, Budget(size))
    for _ in ("protocol version", "system", "content"):
        load_pickle(file, size, vocabulary)
    keys = load_pickle(file, size, vocabulary)
    if type(keys) is not list or sorted(map(str, keys)) != sorted(lengths):
        raise WeightsError("it is damaged: its list of storages does not fit its tensors")
    want, left = sum(lengths.values()) + 8 * len(lengths), size - file.tell()
    if want > left:
        raise WeightsError(
            f"it is cut off: its tensors need {want:,} bytes, and {left:,} are there; get it again"
        )
    return _torch_load(file)


def is_tar(head: bytes) -> bool:
    """Return whether the first 512 bytes of a file are a tar header, whatever its name says."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _torch_load(file: BinaryIO) -> Any:
    file.seek(0)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 whatever PyTorch's readers raise for a bad file
        found = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        why = str(error).rpartition("WeightsUnpickler error: ")[2].strip().rstrip(".")
        why = f"it reaches for {found[1]}" if found else why or type(error).__name__
        raise WeightsError(
            f"refused by torch.load(weights_only=True) of PyTorch {torch.__version__}: {shown(why)}"
        ) from error


# -- the archive -------------------------------------------------------------------------------


def _check_zip_directory(file: BinaryIO, size: int) -> None:
    """Check the end of the archive, before a directory of a million entries is read."""
    file.seek(max(0, size - 98))
    tail = file.read().rjust(98, b"\0")
    end, locator, end_64 = tail[76:], tail[56:76], tail[:56]
    if end[:4] != b"PK\5\6" or end[20:] != b"\0\0":
        raise WeightsError("it is a zip archive that is cut off or damaged: get it again")
    length = struct.unpack("<I", end[12:16])[0]
    if locator[:4] == b"PK\6\7":
        if end_64[:4] != b"PK\6\6":
            raise WeightsError("it is a damaged zip archive: get it again")
        length = max(length, struct.unpack("<Q", end_64[40:48])[0])
    if length > _MOST_ZIP_DIRECTORY:
        raise WeightsError(f"its zip directory has {length:,} bytes; no weights have that many")


def _check_zip_entries(archive: zipfile.ZipFile, size: int) -> tuple[str, dict[str, int]]:
    """Return the folder that ``torch.save`` put all in, and the length of each entry."""
    entries = archive.infolist()
    lengths = {entry.filename: entry.file_size for entry in entries}
    tops = {name.partition("/")[0] for name in lengths}
    top = min(tops, default="")
    if len(tops) != 1 or f"{top}/data.pkl" not in lengths:
        kind = "NumPy's .npz" if any(name.endswith(".npy") for name in lengths) else "a zip archive"
        raise WeightsError(f"it is {kind}, and not a file that torch.save wrote")
    if f"{top}/constants.pkl" in lengths or any("/code/" in name for name in lengths):
        raise WeightsError(
            "refused, and nothing of it was run: it is a TorchScript archive (torch.jit), which "
            "is code; save the state_dict instead"
        )
    if (
        len(lengths) != len(entries)
        or min(entry.header_offset for entry in entries) != 0
        or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        or any(entry.compress_size != entry.file_size for entry in entries)
        or sum(lengths.values()) > size
    ):
        raise WeightsError("it is a zip archive, but not as torch.save writes it: refused")
    return top, lengths


# -- the pickle --------------------------------------------------------------------------------


def _vocabulary(id_length: int, check: Any, budget: Budget) -> Vocabulary:
    """Return what PyTorch's pickle may name; ``check(kind, key, numel)`` sees each storage once."""
    seen: dict[str, _Storage] = {}

    def persistent(identity: Any) -> _Storage:
        if type(identity) is not tuple or len(identity) != id_length or identity[0] != "storage":
            what = identity[0] if type(identity) is tuple and identity else identity
            raise WeightsError(f"refused: it reaches for '{shown(what)}' by a persistent id")
        kind, key, _location, numel = identity[1:5]
        if type(kind) is not Global or kind.name not in _STORAGES or any(identity[5:]):
            raise WeightsError("refused: it has a storage of a kind that no weights have")
        # a key of other letters could be read in two ways
        if type(key) is not str or not key.isascii() or type(numel) is not int or numel < 0:
            raise DamagedPickle("it is damaged: a storage without a key or a size")
        storage = _Storage(kind.name, numel)
        if key not in seen:
            check(kind.name, key, numel)
        if seen.setdefault(key, storage) != storage:
            raise DamagedPickle(f"it is damaged: storage '{shown(key)}' is there in two kinds")
        return storage

    def tensor(
        _budget: Budget,
        storage: _Storage,
        offset: int,
        shape: tuple,
        stride: tuple,
        requires_grad: bool = False,
        hooks: Any = None,
        metadata: Any = None,
    ) -> _Tensor:
        sizes = (offset, *shape, *stride)
        if type(storage) is not _Storage or type(requires_grad) is not bool or hooks or metadata:
            raise TypeError
        if type(shape) is not tuple or type(stride) is not tuple or len(shape) != len(stride):
            raise TypeError
        if any(type(n) is not int or n < 0 for n in sizes):
            raise ValueError
        numel = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride))
        if numel and last >= storage.numel:
            raise WeightsError(
                f"it is damaged: a tensor of shape {shown(shape)} is larger than its data"
            )
        budget.charge(numel * _STORAGES[storage.kind])  # a stride of 0 repeats one element
        return _Tensor()

    return Vocabulary(
        calls={
            **PLAIN_CALLS,
            **dict.fromkeys(_STORAGES),
            **dict.fromkeys(_DTYPES),
            "torch.Size": _size,
            "torch.nn.parameter.Parameter": _parameter,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_tensor": tensor,
            "torch._utils._rebuild_tensor_v2": tensor,
        },
        builds={**PLAIN_BUILDS, _Tensor: _build_parameter},
        leaves=lambda item: type(item) is _Tensor,
        values=_DTYPES,
        persistent=persistent,
    )


def _size(_budget: Budget, sizes: tuple) -> tuple:
    if type(sizes) is not tuple or any(type(n) is not int for n in sizes):
        raise TypeError
    return sizes


def _parameter(
    _budget: Budget, data: _Tensor, requires_grad: bool = True, hooks: Any = None
) -> _Tensor:
    if type(data) is not _Tensor or type(requires_grad) is not bool or hooks:
        raise TypeError
    return _Tensor()


def _build_parameter(_budget: Budget, _target: _Tensor, state: tuple) -> None:
    # of PyTorch 0.3 and before: requires_grad, volatile, hooks
    requires_grad, volatile, hooks = state
    if type(requires_grad) is not bool or type(volatile) is not bool:
        raise TypeError
    if hooks is not None and not (type(hooks) is OrderedDict and not hooks):
        raise TypeError
