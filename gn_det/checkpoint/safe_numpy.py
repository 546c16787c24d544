"""What a pickle of arrays may name: a few functions of NumPy, written again for numbers alone."""

import math
import re
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np

from .errors import WeightsError
from .safe_content import check_keys, shown
from .safe_pickle import Budget, Global, Vocabulary, load_pickle

__all__ = ["PLAIN_BUILDS", "PLAIN_CALLS", "load_numpy_pickle"]

_KINDS = "biufc"


class DType:
    """The stand-in of a dtype: BUILD sets its byte order in place, which NumPy's must not see."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


def load_numpy_pickle(file: BinaryIO, size: int) -> Any:
    """Read one pickle of arrays, numbers, strings and containers, from NumPy 1 or 2, Python 2 or 3.

    Arrays are what ``pickle.load`` makes of them, bit by bit: type, shape, memory layout.

    Args:
        file: a seekable file at the start of the pickle; left behind its end.
        size: the length of the whole file in bytes.

    Raises:
        WeightsError: it holds something else, or is damaged.
    """
    return load_pickle(file, size, _VOCABULARY)


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
    check_keys(items)
    budget.charge(32 * len(items))
    return set(items)


def _frozenset(budget: Budget, items: list) -> frozenset:
    return frozenset(_set(budget, items))


def _ordered_dict(budget: Budget, pairs: Any = ()) -> OrderedDict:
    if type(pairs) not in (list, tuple) or any(type(p) not in (list, tuple) for p in pairs):
        raise TypeError
    pairs = [(key, value) for key, value in pairs]
    check_keys(key for key, _ in pairs)
    budget.charge(64 * len(pairs))
    return OrderedDict(pairs)


def _build_ordered_dict(_budget: Budget, target: OrderedDict, state: Any) -> None:
    # PyTorch keeps the versions of modules there; any other attribute could hide a method
    if type(state) not in (dict, OrderedDict) or set(state) - {"_metadata"}:
        raise TypeError
    vars(target).update(state)


def _dtype(_budget: Budget, name: str, _align: object = False, _copy: object = True) -> DType:
    if type(name) is not str or not re.fullmatch(rf"[<>=|]?[{_KINDS}?]\d{{0,2}}", name):
        raise WeightsError(
            f"refused: it has an array of numpy.dtype('{shown(name)}'), and weights are numbers"
        )
    return DType(np.dtype(name))


def _build_dtype(_budget: Budget, target: DType, state: tuple) -> None:
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
            f"it is damaged: an array of shape {shown(shape)} and {dtype.dtype} needs {want:,} "
            f"bytes, and {len(data):,} are there"
        )
    budget.charge(want)


def _reconstruct(_budget: Budget, kind: Any, _shape: tuple, _code: Any) -> np.ndarray:
    if kind != Global("numpy.ndarray"):
        raise TypeError
    return np.empty(0, np.int8)  # filled in place by _build_array


def _build_array(budget: Budget, target: np.ndarray, state: tuple) -> None:
    version, shape, dtype, fortran, data = state
    if type(version) is not int or fortran not in (0, 1) or target.shape != (0,):
        raise ValueError
    data = _raw(data)
    _check_shape(budget, shape, dtype, data)
    target.__setstate__((1, shape, dtype.dtype, bool(fortran), bytes(data)))  # shares large bytes


def _scalar(budget: Budget, dtype: DType, data: Any) -> np.generic:
    data = _raw(data)
    _check_shape(budget, (), dtype, data)
    return np.frombuffer(data, dtype.dtype)[0]


def _from_buffer(
    budget: Budget, data: Any, dtype: DType, shape: tuple, order: str, axes: Any = None
) -> np.ndarray:
    data = _raw(data)
    _check_shape(budget, shape, dtype, data)
    array = np.frombuffer(data, dtype.dtype)
    if order == "K" and axes is not None:
        return array.reshape(shape).transpose(axes)
    return array.reshape(shape, order=order)


# for Detectron2's and PyTorch's files alike
PLAIN_CALLS = {
    "_codecs.encode": _encode,
    "builtins.bytes": _no_bytes,
    "builtins.bytearray": _bytearray,
    "builtins.complex": _complex,
    "builtins.set": _set,
    "builtins.frozenset": _frozenset,
    "collections.OrderedDict": _ordered_dict,
}
PLAIN_BUILDS = {OrderedDict: _build_ordered_dict}

_ARRAY_CALLS = {"_reconstruct": _reconstruct, "scalar": _scalar}
_VOCABULARY = Vocabulary(
    calls={
        **PLAIN_CALLS,
        **{f"numpy.core.multiarray.{name}": call for name, call in _ARRAY_CALLS.items()},
        **{f"numpy._core.multiarray.{name}": call for name, call in _ARRAY_CALLS.items()},
        "numpy.core.numeric._frombuffer": _from_buffer,
        "numpy._core.numeric._frombuffer": _from_buffer,
        "numpy.dtype": _dtype,
        "numpy.ndarray": None,
    },
    builds={**PLAIN_BUILDS, DType: _build_dtype, np.ndarray: _build_array},
    leaves=lambda item: type(item) is np.ndarray or isinstance(item, np.generic),
)
