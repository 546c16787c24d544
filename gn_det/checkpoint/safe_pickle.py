"""Python's own unpickler, which gets placeholders in place of what a file names.

A name in a file becomes a :class:`Placeholder`. The names of NumPy's arrays and PyTorch's tensors
have a function of ours. Every other name is inert: a call of it gives the placeholder back, and
what the file sets on it is dropped. No module is imported and no attribute is read. A name that
reaches for the system is refused.

The base is ``pickle._Unpickler``, the unpickler that is written in Python. The one in C,
``pickle.Unpickler``, cannot be bounded. Measured with Python 3.11: 9 bytes with a large memo index
take 4 GB and 11 s (its memo is an array, here it is a dict), and a dict with a tuple of 200,000
levels as its key ends the process (its hash recurses in C).
"""

import pickle
import struct
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # Python 2's names, as pickle maps them
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, BinaryIO

from gn_det.utils import shorten

from .errors import WeightsError
from .refused_globals import reaches_for_the_system
from .safe_content import Placeholder, hashable

__all__ = ["MAX_OPERATIONS", "Budget", "DamagedPickle", "load_pickle", "refused"]

# Ten times what the largest published detectors need. It bounds the time to about a second.
MAX_OPERATIONS = 500_000
# 64 bits signed or unsigned. Larger integers are no weights, and their hashes collide at will.
_MAX_INTEGER_BYTES = 9
_MAX_DIGITS = 40
# A larger length is compared with the rest of the file before that much is allocated.
_SMALL = 1 << 16

# what a pickle that is damaged, or used wrongly, makes Python raise
_ERRORS: tuple[type[Exception], ...] = (
    *(AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError),
    *(pickle.UnpicklingError, struct.error),
)


class DamagedPickle(WeightsError):
    """Bytes that are no pickle, or not a whole one."""


class Budget:
    """The bytes that may be made out of a file: a reference to a string takes two bytes.

    Args:
        file_size: The length of the file in bytes.
    """

    def __init__(self, file_size: int):
        self._left = 4 * file_size + (1 << 20)

    def charge(self, count: int) -> None:
        """Take ``count`` bytes.

        Raises:
            WeightsError: The file would unpack to more than four times its size.
        """
        self._left -= count
        if self._left < 0:
            raise WeightsError("it unpacks to far more than its size; no weights do that")


def load_pickle(
    file: BinaryIO,
    size: int,
    *,
    calls: Mapping[str, Callable[..., Any]],
    builds: Mapping[type, Callable[[Budget, Any, Any], None]],
    values: Mapping[str, Any] = MappingProxyType({}),
    persistent: Callable[[Any], Any] | None = None,
    budget: Budget | None = None,
) -> Any:
    """Read one pickle of protocol 0 to 5. Strings of Python 2 are taken as Latin-1.

    Args:
        file: A seekable file at the start of the pickle. It is left behind the pickle's end.
        size: The length of the whole file in bytes.
        calls: Full names, each with the function ``(budget, *arguments)`` that stands for it.
        builds: Exact types, each with the function ``(budget, object, state)`` that takes the state
            which the file has for such an object.
        values: Full names, each with the object that stands for it.
        persistent: The function of an id that gives an object which the pickle keeps elsewhere.
        budget: The bytes that may be made; by default those of a file of ``size``.

    Returns:
        The content, with placeholders for what is no data. It may still be nested without end: see
        :func:`gn_det.checkpoint.safe_content.check_content`.

    Raises:
        WeightsError: The pickle reaches for the system, or is built to exhaust time or memory.
        DamagedPickle: It is no pickle, or not a whole one.
    """
    source, budget = _Source(file, size), budget or Budget(size)
    try:
        return _Unpickler(source, calls, builds, values, persistent, budget).load()
    except WeightsError:  # a ValueError too
        raise
    except _ERRORS as error:
        raise DamagedPickle(f"it is damaged, or no pickle, at byte {file.tell()}") from error


def refused(name: str) -> WeightsError:
    """Return the error of a file that reaches for what no file of weights has.

    Args:
        name: The name of what it reaches for.
    """
    return WeightsError(
        f"refused, and nothing of it was run: it reaches for {shorten(name)}, and weights are only "
        "arrays, numbers, strings and containers"
    )


class _Source:
    """A file that has what it is asked for, or raises before that much is allocated."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size

    def read(self, count: int) -> bytes:
        if not 0 <= count <= _SMALL:
            self.announced(count)
        data = self._file.read(count)
        if len(data) < count:
            raise DamagedPickle(f"it is cut off at byte {self._file.tell()}: its end is missing")
        return data

    def readline(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise DamagedPickle(f"it is cut off at byte {self._file.tell()}: its end is missing")
        return line

    def announced(self, count: int) -> None:
        left = self._size - self._file.tell()
        if not 0 <= count <= left:
            raise DamagedPickle(
                f"it is damaged or cut off at byte {self._file.tell()}: it announces "
                f"{count:,} bytes, and {left:,} are left"
            )


class _Unpickler(pickle._Unpickler):
    """Python's unpickler with checks where a file could set anything, or exhaust time or memory.

    The base class has ``stack``, the objects since the last mark; ``metastack``, the stacks before
    each mark; and a method for each operation, from ``load_append`` to ``load_tuple``.
    """

    stack: list[Any]
    metastack: list[list[Any]]
    pop_mark: Callable[[], list[Any]]

    def __init__(
        self,
        source: _Source,
        calls: Mapping[str, Callable[..., Any]],
        builds: Mapping[type, Callable[[Budget, Any, Any], None]],
        values: Mapping[str, Any],
        persistent: Callable[[Any], Any] | None,
        budget: Budget,
    ):
        super().__init__(source, encoding="latin1")
        self._source, self._persistent, self._budget = source, persistent, budget
        self._calls, self._builds, self._values = calls, builds, values

    def load(self) -> Any:
        """Return the object that the pickle ends with."""
        source = self._source
        self.read, self.readline = source.read, source.readline
        self.stack, self.metastack = [], []
        self.append = self.stack.append
        for _ in range(MAX_OPERATIONS):
            code = source.read(1)
            if code == pickle.STOP:
                return self.stack.pop()
            operation = _OPERATIONS.get(code[0])
            if operation is None:
                raise DamagedPickle(f"it is damaged, or no pickle: unknown operation {code!r}")
            operation(self)
        raise WeightsError(f"it has more than {MAX_OPERATIONS:,} parts; no weights have that")

    # -- names and calls -----------------------------------------------------------------------

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name."""
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if not all(part.isidentifier() for part in full.split(".")):
            raise DamagedPickle(f"it is no pickle: it names '{shorten(full)}'")
        if full not in self._calls and reaches_for_the_system(full):
            raise refused(full)
        return self._values.get(full, Placeholder(full))

    def call(self, keywords: dict[str, Any]) -> None:
        """Call our function for the name on the stack; without one, the placeholder stays."""
        arguments, function = self.stack.pop(), self.stack[-1]
        if type(function) is not Placeholder or type(arguments) is not tuple:
            raise TypeError
        ours = self._calls.get(function.name)
        if ours is not None:
            self.stack[-1] = self._run(function.name, ours, *arguments, **keywords)

    def load_reduce(self) -> None:
        self.call({})

    def load_newobj(self) -> None:
        self.call({})

    def load_newobj_ex(self) -> None:
        self.call(self.stack.pop())

    def _instantiate(self, kind: Any, arguments: list[Any]) -> None:  # of INST and OBJ
        self.stack += [kind, tuple(arguments)]
        self.call({})

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Placeholder:
            return
        ours = self._builds.get(type(target))
        if ours is None:
            raise refused(f"the state of {type(target).__name__}")
        self._run(type(target).__name__, ours, target, state)

    def _run(self, name: str, ours: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        try:
            return ours(self._budget, *arguments, **keywords)
        except WeightsError:
            raise
        except _ERRORS as error:
            message = f"refused: it uses {shorten(name)} as no file of weights does"
            raise WeightsError(message) from error

    def get_extension(self, code: int) -> None:
        raise refused(f"the extension {code} of copyreg")

    def persistent_load(self, identity: Any) -> Any:
        """Return what the file keeps beside the pickle."""
        if self._persistent is None:
            raise refused("an object by a persistent id")
        return self._persistent(identity)

    def load_persid(self) -> None:
        # only in protocol 0, which no file with persistent ids has; any text with a P looks so
        name = shorten(self.readline()[:-1].decode())
        raise DamagedPickle(f"it is no pickle: persistent id '{name}'")

    def load_next_buffer(self) -> None:
        raise refused("a buffer outside of the file")

    load_readonly_buffer = load_next_buffer

    # -- containers: only ours, and only keys whose hash is cheap ------------------------------

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Placeholder:
            raise TypeError

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if len(items) % 2:
            raise TypeError
        if type(target) in (dict, OrderedDict):
            target.update(zip(map(hashable, items[::2]), items[1::2]))
        elif type(target) is not Placeholder:
            raise TypeError

    def load_append(self) -> None:
        self.extend([self.stack.pop()])

    def load_appends(self) -> None:
        self.extend(self.pop_mark())

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def load_setitems(self) -> None:
        self.set_items(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self.set_items(items)

    def load_additems(self) -> None:
        items, target = self.pop_mark(), self.stack[-1]
        if type(target) is set:
            target.update(map(hashable, items))
        elif type(target) is not Placeholder:
            raise TypeError

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(map(hashable, items)))

    # -- lengths -------------------------------------------------------------------------------

    def integer(self, count: int) -> None:
        if count > _MAX_INTEGER_BYTES:
            raise WeightsError(f"it has an integer of {count:,} bytes; no weights have that")
        self.append(pickle.decode_long(self.read(count)))

    def load_long1(self) -> None:
        self.integer(self.read(1)[0])

    def load_long4(self) -> None:
        self.integer(struct.unpack("<I", self.read(4))[0])

    def load_bytearray8(self) -> None:
        self.append(bytearray(self.read(struct.unpack("<Q", self.read(8))[0])))

    def load_frame(self) -> None:  # what is in a frame is read as if there were none
        self._source.announced(struct.unpack("<Q", self.read(8))[0])


def _of_digits(operation: Callable[[Any], None]) -> Callable[[Any], None]:
    """Bound an operation's line: Python may take quadratic time for a million digits."""

    def checked(unpickler: Any) -> None:
        whole = unpickler.readline
        line = whole()
        if len(line) > _MAX_DIGITS:
            raise WeightsError(f"it has a number of {len(line) - 1:,} digits; no weights have that")
        unpickler.readline = lambda: line
        operation(unpickler)
        unpickler.readline = whole

    return checked


# the base class's table, with our methods where they have the same name
_OPERATIONS: dict[int, Callable[[Any], None]] = {
    code: getattr(_Unpickler, method.__name__)
    for code, method in pickle._Unpickler.dispatch.items()
}
for _code in (pickle.INT, pickle.LONG, pickle.FLOAT, pickle.PUT, pickle.GET):
    _OPERATIONS[_code[0]] = _of_digits(_OPERATIONS[_code[0]])
