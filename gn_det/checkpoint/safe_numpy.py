"""What the names of Python's and NumPy's own types stand for: functions for numbers alone."""

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from gn_det.utils import shorten

from .errors import WeightsError
from .safe_content import Placeholder, hashable
from .safe_pickle import Budget

__all__ = ["BUILDS", "CALLS", "is_array"]

_KINDS = "biufcSU"  # types of a fixed size, without references


class DType:
    """The stand-in of a dtype: BUILD sets its byte order in place, which NumPy's must not see.

    Args:
        dtype: NumPy's dtype.
    """

    name = "numpy.dtype"

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


def is_array(item: Any) -> bool:
    """Return whether an object out of a file is an array or a scalar of NumPy that was read."""
    return type(item) is np.ndarray and item.dtype.kind in _KINDS or isinstance(item, np.generic)


def _encode(budget: Budget, text: str, encoding: str) -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise TypeError
    budget.charge(len(text))
    return text.encode("latin-1")


def _no_bytes(_budget: Budget) -> bytes:
    return b""


def _bytearray(budget: Budget, data: Any = b"", encoding: str = "latin-1") -> bytearray:
    data = _encode(budget, data, encoding) if type(data) is str else data
    if type(data) is not bytes:  # bytearray(n) would allocate n bytes
        raise TypeError
    budget.charge(len(data))
    return bytearray(data)


def _complex(_budget: Budget, real: float, imaginary: float) -> complex:
    return complex(real, imaginary)


def _set(budget: Budget, items: list) -> set:
    if type(items) is not list:
        raise TypeError
    budget.charge(32 * len(items))
    return set(map(hashable, items))


def _frozenset(budget: Budget, items: list) -> frozenset:
    return frozenset(_set(budget, items))


def _ordered_dict(budget: Budget, pairs: Any = ()) -> OrderedDict:
    if type(pairs) not in (list, tuple) or any(type(p) not in (list, tuple) for p in pairs):
        raise TypeError
    budget.charge(64 * len(pairs))
    return OrderedDict((hashable(key), value) for key, value in pairs)


def _build_ordered_dict(_budget: Budget, target: OrderedDict, state: Any) -> None:
    # PyTorch keeps the versions of modules there; any other attribute could hide a method
    if type(state) not in (dict, OrderedDict) or set(state) - {"_metadata"}:
        raise TypeError
    vars(target).update(state)


def _object(_budget: Budget, kind: Any, *_state: Any) -> Any:
    """Stand for copyreg._reconstructor, by which protocols 0 and 1 make objects of any class."""
    if type(kind) is not Placeholder:
        raise TypeError
    return kind


def _dtype(
    _budget: Budget, name: Any, _align: object = False, _copy: object = True
) -> DType | Placeholder:
    if type(name) is str and re.fullmatch(rf"[<>=|]?[{_KINDS}?]\d{{0,4}}", name):
        return DType(np.dtype(name))
    return Placeholder("numpy.dtype")


def _build_dtype(_budget: Budget, target: DType, state: tuple) -> None:
    if type(state) is not tuple:
        raise TypeError
    version, order, *extra = state  # extra: subarray, names, fields, size, alignment, flags
    if version not in (3, 4) or order not in ("<", ">", "|", "="):
        raise ValueError
    if any(part is not None for part in extra[:3]) or (len(extra) > 6 and extra[6]):
        raise ValueError
    target.dtype = target.dtype.newbyteorder(order)


def _raw(data: Any) -> bytes | bytearray:
    """Return the bytes of an array; Python 2's were read as Latin-1."""
    data = data.encode("latin-1") if type(data) is str else data
    if type(data) not in (bytes, bytearray):
        raise TypeError
    return data


def _check_shape(budget: Budget, shape: Any, dtype: Any, data: bytes | bytearray) -> None:
    """Check that an array has as many bytes as its shape says, before NumPy sees it."""
    if type(shape) is not tuple or any(type(n) is not int or n < 0 for n in shape):
        raise TypeError
    if type(dtype) is not DType or len(shape) > 32:
        raise TypeError
    want = math.prod(shape) * dtype.dtype.itemsize
    if len(data) != want:
        raise WeightsError(
            f"it is damaged: an array of shape {shorten(shape)} and {dtype.dtype} needs {want:,} "
            f"bytes, and {len(data):,} are there"
        )
    budget.charge(want)


def _reconstruct(_budget: Budget, kind: Any, _shape: object, _code: object) -> Any:
    if type(kind) is not Placeholder:
        raise TypeError
    if kind.name != "numpy.ndarray":
        return kind  # of a class that is derived from it
    return np.empty(0, np.int8)  # filled in place by _build_array


def _build_array(budget: Budget, target: Any, state: tuple) -> None:
    if type(state) is not tuple:
        raise TypeError
    version, shape, dtype, fortran, data = state
    if type(version) is not int or fortran not in (0, 1) or target.shape != (0,):
        raise ValueError
    if type(dtype) is Placeholder:  # of objects or records: is_array says that it was not read
        target.__setstate__((1, (0,), np.dtype(object), False, []))
        return
    data = _raw(data)
    _check_shape(budget, shape, dtype, data)
    target.__setstate__((1, shape, dtype.dtype, bool(fortran), bytes(data)))  # shares large bytes


def _scalar(budget: Budget, dtype: Any, data: Any) -> np.generic | Placeholder:
    if type(dtype) is Placeholder:
        return Placeholder("numpy.generic")
    data = _raw(data)
    _check_shape(budget, (), dtype, data)
    return np.frombuffer(data, dtype.dtype)[0]


def _from_buffer(
    budget: Budget, data: Any, dtype: Any, shape: tuple, order: str, axes: Any = None
) -> np.ndarray | Placeholder:
    if type(dtype) is Placeholder:
        return Placeholder("numpy.ndarray")
    data = _raw(data)
    _check_shape(budget, shape, dtype, data)
    array = np.frombuffer(data, dtype.dtype)
    if order == "K" and axes is not None:
        return array.reshape(shape).transpose(axes)
    return array.reshape(shape, order=order)  # type: ignore[call-overload] # any other is refused


_OF_NUMPY: dict[str, Callable[..., Any]] = {
    "multiarray._reconstruct": _reconstruct,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _from_buffer,
}
CALLS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encode,
    "builtins.bytes": _no_bytes,
    "builtins.bytearray": _bytearray,
    "builtins.complex": _complex,
    "builtins.set": _set,
    "builtins.frozenset": _frozenset,
    "collections.OrderedDict": _ordered_dict,
    "copyreg._reconstructor": _object,
    "numpy.dtype": _dtype,
    **{f"numpy.core.{name}": call for name, call in _OF_NUMPY.items()},  # NumPy 1
    **{f"numpy._core.{name}": call for name, call in _OF_NUMPY.items()},  # NumPy 2
}
BUILDS: dict[type, Callable[[Budget, Any, Any], None]] = {
    OrderedDict: _build_ordered_dict,
    DType: _build_dtype,
    np.ndarray: _build_array,
}
