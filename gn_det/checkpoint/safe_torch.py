"""PyTorch's files, read by the unpickler of safe_pickle and without ``torch.load``.

``torch.load(weights_only=True)`` refuses a whole file for one unknown class in it. Before PyTorch
2.6 it hands TorchScript archives to ``torch.jit.load`` and unpacks tar files, and every version
believes the sizes that a pickle gives for its storages.

Shapes: a storage is a row of numbers; tensors are views of it, with an offset, sizes and strides.
"""

import io
import math
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import torch
from torch import nn

from gn_det.utils import shorten

from .errors import WeightsError
from .safe_content import Placeholder
from .safe_numpy import BUILDS, CALLS
from .safe_pickle import Budget, DamagedPickle, load_pickle

__all__ = ["LEGACY_MAGIC", "is_tar", "is_torch", "load_torch_legacy", "load_torch_zip"]

# how the number 0x1950a86a20f9469cfc6c, with which PyTorch's files before 1.6 start, is pickled
LEGACY_MAGIC = b"\x8a\n" + bytes.fromhex("6cfc9c46f9206aa85019") + b"."
_MOST_ZIP_DIRECTORY = 8 << 20  # bytes; some 50,000 tensors
# what zipfile raises, depending on what is damaged
_BAD_ZIP: tuple[type[Exception], ...] = (
    *(zipfile.BadZipFile, EOFError, LookupError, OSError, RuntimeError, ValueError),
    *(OverflowError, struct.error),
)

_DTYPES = {
    f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)
}
_STORAGES = {
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.ShortStorage": torch.int16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    # of quantized tensors and rare types, which are left out: only the length counts
    "torch.storage.UntypedStorage": torch.uint8,
    **{"torch.QInt8Storage": torch.int8, "torch.QUInt8Storage": torch.uint8},
    "torch.QInt32Storage": torch.int32,
}


class Storage:
    """The stand-in of a storage.

    Args:
        dtype: The type of its elements.
        data: Its bytes, uint8.
    """

    name = "torch.storage"

    def __init__(self, dtype: torch.dtype, data: torch.Tensor):
        self.dtype, self.data = dtype, data


def is_torch(item: Any) -> bool:
    """Return whether an object out of a file is PyTorch's, and data."""
    return type(item) in (torch.Tensor, nn.Parameter, torch.Size, torch.dtype)


def load_torch_zip(file: BinaryIO, size: int) -> Any:
    """Read what ``torch.save`` of PyTorch 1.6 and later wrote, onto the CPU.

    Args:
        file: A seekable file.
        size: Its length in bytes.

    Raises:
        WeightsError: The file is another zip archive or TorchScript, is damaged, or is refused.
    """
    _check_zip_directory(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            top, entries = _check_zip_entries(archive, size)
            data = archive.read(f"{top}/data.pkl")
            order = f"{top}/byteorder"
            swap = order in entries and archive.read(order) != sys.byteorder.encode()
    except WeightsError:
        raise
    except _BAD_ZIP as error:
        why = shorten(error) or type(error).__name__
        raise WeightsError(f"it is a damaged zip archive ({why}): get it again") from error

    def fill(key: str, storage: Storage) -> None:
        entry = entries.get(f"{top}/data/{key}")
        if entry is None or entry.file_size != len(storage.data):
            raise WeightsError(f"it is damaged: the data of storage '{shorten(key)}' does not fit")
        file.seek(entry.header_offset)
        header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\3\4":
            raise WeightsError("it is a damaged zip archive: get it again")
        file.seek(sum(struct.unpack("<HH", header[26:])), 1)  # its name, and what fills up
        _read(file, storage, swap)

    return _load(io.BytesIO(data), len(data), _Storages(5, size, fill), Budget(size))


def load_torch_legacy(file: BinaryIO, size: int) -> Any:
    """Read what ``torch.save`` of PyTorch 0.1 to 1.5 wrote, onto the CPU.

    Args:
        file: A seekable file that starts with :data:`LEGACY_MAGIC`, pickled with protocol 2 or 3.
        size: Its length in bytes.

    Raises:
        WeightsError: The file is damaged, or is refused.
    """
    file.seek(0)
    if file.read(2) not in (b"\x80\x02", b"\x80\x03") or file.read(13) != LEGACY_MAGIC:
        raise WeightsError("it was saved with another pickle protocol than 2: save it again")
    storages, budget = _Storages(6, size, lambda _key, _storage: None), Budget(size)
    _version, system, content, keys = (_load(file, size, storages, budget) for _ in range(4))
    found = storages.by_key
    if (
        type(keys) is not list
        or any(type(key) is not str for key in keys)
        or sorted(keys) != sorted(found)
    ):
        raise WeightsError("it is damaged: its list of storages does not fit its tensors")
    want, left = storages.bytes + 8 * len(keys), size - file.tell()
    if want > left:
        raise WeightsError(
            f"it is cut off: its tensors need {want:,} bytes, and {left:,} are there; get it again"
        )
    little = system.get("little_endian", True) if type(system) is dict else True
    for key in keys:
        count = int.from_bytes(file.read(8), "little" if little else "big")
        if count * found[key].dtype.itemsize != len(found[key].data):
            raise WeightsError(f"it is damaged: the data of storage '{shorten(key)}' does not fit")
        _read(file, found[key], swap=bool(little) != (sys.byteorder == "little"))
    return content


def is_tar(head: bytes) -> bool:
    """Return whether the first 512 bytes of a file are a tar header, whatever its name says."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _read(file: BinaryIO, storage: Storage, swap: bool) -> None:
    """Fill a storage with the bytes that come next in the file."""
    data = storage.data.numpy()
    if file.readinto(data) < len(data):  # type: ignore[attr-defined] # every file of ours has it
        raise WeightsError("it is cut off or damaged: a tensor's data ends too early")
    if swap:
        width = storage.dtype.itemsize // (2 if storage.dtype.is_complex else 1)
        data.view(f"u{width}").byteswap(inplace=True)


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


def _check_zip_entries(
    archive: zipfile.ZipFile, size: int
) -> tuple[str, dict[str, zipfile.ZipInfo]]:
    """Return the folder that ``torch.save`` put all in, and the entries by name."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    tops = {name.partition("/")[0] for name in entries}
    top = min(tops, default="")
    if len(tops) != 1 or f"{top}/data.pkl" not in entries:
        kind = "NumPy's .npz" if any(name.endswith(".npy") for name in entries) else "a zip archive"
        raise WeightsError(f"it is {kind}, and not a file that torch.save wrote")
    if f"{top}/constants.pkl" in entries or any("/code/" in name for name in entries):
        raise WeightsError(
            "refused, and nothing of it was run: it is a TorchScript archive (torch.jit), which "
            "is code; save the state_dict instead"
        )
    if (
        len(entries) != len(archive.infolist())
        or min(entry.header_offset for entry in entries.values()) != 0
        or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values())
        or any(entry.compress_size != entry.file_size for entry in entries.values())
        or sum(entry.file_size for entry in entries.values()) > size
    ):
        raise WeightsError("it is a zip archive, but not as torch.save writes it: refused")
    return top, entries


# -- the pickle --------------------------------------------------------------------------------


class _Storages:
    """The storages of a file, each allocated once.

    Args:
        id_length: The length of the tuples by which the pickle refers to a storage.
        size: The length of the file in bytes; all storages together have no more.
        fill: The function of a key and a storage that reads the storage's bytes, now or later.
    """

    def __init__(self, id_length: int, size: int, fill: Callable[[str, Storage], None]):
        self._id_length, self._size, self._fill = id_length, size, fill
        self.by_key: dict[str, Storage] = {}
        self.bytes = 0

    def find(self, identity: Any) -> Storage | Placeholder:
        """Return the storage of a persistent id; a placeholder for a kind that is not read."""
        if type(identity) is not tuple or len(identity) != self._id_length:
            raise WeightsError("refused: it reaches for an object by a persistent id")
        word, kind, key, _location, numel, *view = identity
        if type(word) is not str or word != "storage":
            raise WeightsError("refused: it reaches for an object by a persistent id")
        if type(kind) is not Placeholder or any(part is not None for part in view):
            raise WeightsError("refused: it has a storage of a kind that no weights have")
        if type(key) is not str or type(numel) is not int or numel < 0:
            raise DamagedPickle("it is damaged: a storage without a key or a size")
        if kind.name not in _STORAGES:
            return kind
        dtype = _STORAGES[kind.name]
        length = numel * dtype.itemsize
        if key not in self.by_key:
            self.bytes += length
            if self.bytes > self._size:
                raise WeightsError(
                    f"it is damaged: its tensors need {self.bytes:,} bytes, more than it has"
                )
            self.by_key[key] = Storage(dtype, torch.empty(length, dtype=torch.uint8))
            self._fill(key, self.by_key[key])
        storage = self.by_key[key]
        if storage.dtype != dtype or len(storage.data) != length:
            raise DamagedPickle(f"it is damaged: storage '{shorten(key)}' is there in two kinds")
        return storage


def _load(file: BinaryIO, size: int, storages: _Storages, budget: Budget) -> Any:
    return load_pickle(
        file,
        size,
        calls={**CALLS, **_CALLS},
        builds={**BUILDS, **dict.fromkeys((torch.Tensor, nn.Parameter), _build_parameter)},
        values=_DTYPES,
        persistent=storages.find,
        budget=budget,
    )


def _tensor(
    budget: Budget,
    storage: Any,
    offset: int,
    shape: tuple,
    stride: tuple,
    requires_grad: bool = False,
    _hooks: object = None,
    metadata: Any = None,
) -> torch.Tensor | Placeholder:
    if type(storage) is Placeholder:
        return storage
    if type(storage) is not Storage or type(requires_grad) is not bool or metadata:
        raise TypeError
    if type(shape) not in (tuple, torch.Size) or type(stride) is not tuple:
        raise TypeError
    sizes = (offset, *shape, *stride)
    if len(shape) != len(stride) or any(type(n) is not int or n < 0 for n in sizes):
        raise ValueError
    numel = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride))
    if numel and last >= len(storage.data) // storage.dtype.itemsize:
        raise WeightsError(
            f"it is damaged: a tensor of shape {shorten(shape)} is larger than its data"
        )
    budget.charge(numel * storage.dtype.itemsize)  # a stride of 0 repeats one element
    bare = torch.empty(0, dtype=storage.dtype)
    tensor = bare.set_(storage.data.untyped_storage(), offset, tuple(shape), stride)
    return tensor.requires_grad_(requires_grad)


def _tensor_of_class(
    budget: Budget, function: Any, _kind: object, arguments: tuple, _state: object
) -> torch.Tensor | Placeholder:
    """Rebuild a tensor that has attributes, or a class of its own: as a plain tensor."""
    if type(function) is not Placeholder or type(arguments) is not tuple:
        raise TypeError
    rebuild = _TENSORS.get(function.name)
    return function if rebuild is None else rebuild(budget, *arguments)


def _parameter(
    _budget: Budget, data: Any, requires_grad: bool = True, *_hooks_and_state: object
) -> nn.Parameter | Placeholder:
    if type(data) is Placeholder:
        return data
    if type(data) not in (torch.Tensor, nn.Parameter) or type(requires_grad) is not bool:
        raise TypeError
    return nn.Parameter(data.detach(), requires_grad)


def _build_parameter(_budget: Budget, _target: torch.Tensor, _state: Any) -> None:
    """Drop the state of PyTorch 0.3's parameters: requires_grad, volatile, hooks."""


def _size(_budget: Budget, sizes: tuple) -> torch.Size:
    if type(sizes) is not tuple or any(type(n) is not int for n in sizes):
        raise TypeError
    return torch.Size(sizes)


_TENSORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
}
_CALLS: dict[str, Callable[..., Any]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_class,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.Size": _size,
}
