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

from .errors import WeightsError
from .safe_content import Placeholder, hashable, shown

__all__ = ["MAX_OPERATIONS", "Budget", "DamagedPickle", "load_pickle"]

# Ten times what the largest published detectors need. It bounds the time to about a second.
MAX_OPERATIONS = 500_000
# 64 bits signed or unsigned. Larger integers are no weights, and their hashes collide at will.
_MAX_INTEGER_BYTES = 9
_MAX_DIGITS = 40
# A larger length is compared with the rest of the file before that much is allocated.
_SMALL = 1 << 16

# Modules that run code, start programs, or read and write files and networks.
_SYSTEM = {
    *("os", "posix", "nt", "posixpath", "ntpath", "sys", "platform", "signal", "resource", "mmap"),
    *("fcntl", "pty", "subprocess", "_posixsubprocess", "multiprocessing", "concurrent", "asyncio"),
    *("threading", "_thread", "shutil", "tempfile", "glob", "fileinput", "linecache", "shelve"),
    *("dbm", "ctypes", "_ctypes", "importlib", "imp", "pkgutil", "zipimport", "runpy", "code"),
    *("codeop", "pdb", "bdb", "trace", "timeit", "profile", "cProfile", "doctest", "pydoc", "gc"),
    *("inspect", "operator", "_operator", "copyreg", "pickle", "_pickle", "marshal", "yaml"),
    *("socket", "socketserver", "http", "urllib", "ftplib", "smtplib", "telnetlib", "xmlrpc"),
    *("requests", "aiohttp", "webbrowser", "antigravity", "pip", "ensurepip", "venv", "site"),
    *("setuptools", "distutils"),
}
# Modules that another module has inside, as in numpy.core.multiarray.os.system.
_SYSTEM_INSIDE = {"os", "posix", "nt", "sys", "subprocess", "builtins", "importlib", "ctypes"}
# Single names, and packages with all that is in them. Each ends with the dot that may follow it.
_SYSTEM_NAMES = (
    *("builtins.eval.", "builtins.exec.", "builtins.execfile.", "builtins.compile."),
    *("builtins.open.", "builtins.file.", "builtins.input.", "builtins.breakpoint."),
    *("builtins.getattr.", "builtins.setattr.", "builtins.delattr.", "builtins.apply."),
    *("builtins.globals.", "builtins.locals.", "builtins.vars.", "builtins.reload."),
    *("io.open.", "io.FileIO.", "_io.open.", "_io.FileIO.", "codecs.open.", "types.CodeType."),
    *("types.FunctionType.", "types.LambdaType.", "types.MethodType.", "types.ModuleType."),
    *("numpy.load.", "numpy.fromfile.", "numpy.memmap.", "numpy.loadtxt.", "numpy.genfromtxt."),
    *("numpy.testing.", "numpy.f2py.", "numpy.distutils.", "numpy.ctypeslib."),
    *("torch.load.", "torch.hub.", "torch.jit.", "torch.serialization.load.", "torch.package."),
    *("torch.storage._load_from_bytes.", "torch.utils.cpp_extension.", "torch.ops."),
)
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
    unpickler = _Unpickler(_Source(file, size), calls, builds, values, persistent)
    unpickler.budget = budget or Budget(size)
    try:
        return unpickler.load()
    except WeightsError:  # a ValueError too
        raise
    except _ERRORS as error:
        raise DamagedPickle(f"it is damaged, or no pickle, at byte {file.tell()}") from error


def refused(name: str) -> WeightsError:
    """Return the error of a file that names what no file of weights does."""
    return WeightsError(
        f"refused, and nothing of it was run: it reaches for {shown(name)}, and weights are only "
        "arrays, numbers, strings and containers"
    )


def _reaches_for_the_system(name: str) -> bool:
    first, *inside = name.split(".")
    return (
        first in _SYSTEM
        or f"{name}.".startswith(_SYSTEM_NAMES)
        or any(part.lstrip("_") in _SYSTEM_INSIDE for part in inside[:-1])
        or any(part.startswith("__") and part.endswith("__") for part in inside)
    )


class _Source:
    """A file that has what it is asked for, or raises before that much is allocated."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size

    def read(self, count: int) -> bytes:
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
        if 0 <= count <= _SMALL:
            return
        left = self._size - self._file.tell()
        if not 0 <= count <= left:
            raise DamagedPickle(
                f"it is damaged or cut off at byte {self._file.tell()}: it announces "
                f"{count:,} bytes, and {left:,} are left"
            )


class _Unpickler(pickle._Unpickler):
    """Python's unpickler with checks where a file could exhaust time or memory, or set anything.

    Names of the base class: ``stack`` has the objects since the last mark, ``metastack`` those
    before each mark, ``memo`` what the pickle refers to again.
    """

    stack: list[Any]
    metastack: list[list[Any]]
    pop_mark: Callable[[], list[Any]]
    budget: Budget

    def __init__(
        self,
        source: _Source,
        calls: Mapping[str, Callable[..., Any]],
        builds: Mapping[type, Callable[[Budget, Any, Any], None]],
        values: Mapping[str, Any],
        persistent: Callable[[Any], Any] | None,
    ):
        super().__init__(source, encoding="latin1")
        self._source, self._persistent = source, persistent
        self._calls, self._builds, self._values = calls, builds, values

    def load(self) -> Any:
        """Return the object that the pickle ends with. Frames are read through, not ahead."""
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
            raise DamagedPickle(f"it is no pickle: it names '{shown(full)}'")
        if full not in self._calls and _reaches_for_the_system(full):
            raise refused(full)
        return self._values.get(full, Placeholder(full))

    def call(self, function: Any, arguments: Any, keywords: Any = None) -> Any:
        """Return what our function makes; the placeholder itself where there is none."""
        if type(function) is not Placeholder or type(arguments) is not tuple:
            raise TypeError
        ours = self._calls.get(function.name)
        if ours is None:
            return function
        return self.run(function.name, ours, *arguments, **(keywords or {}))

    def run(self, name: str, ours: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        try:
            return ours(self.budget, *arguments, **keywords)
        except WeightsError:
            raise
        except _ERRORS as error:
            raise WeightsError(
                f"refused: it uses {shown(name)} as no file of weights does"
            ) from error

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.append(self.call(function, arguments))

    def new_with_keywords(self) -> None:
        keywords = self.stack.pop()
        arguments, function = self.stack.pop(), self.stack.pop()
        self.append(self.call(function, arguments, keywords))

    def _instantiate(self, kind: Any, arguments: list[Any]) -> None:  # of INST and OBJ
        self.append(self.call(kind, tuple(arguments)))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Placeholder:
            return
        build = self._builds.get(type(target))
        if build is None:
            raise refused(f"the state of {type(target).__name__}")
        self.run(type(target).__name__, build, target, state)

    def get_extension(self, code: int) -> None:
        """Refuse: which names the codes stand for is up to the process that reads."""
        raise refused(f"the extension {code} of copyreg")

    def persistent_load(self, identity: Any) -> Any:
        """Return what the file keeps beside the pickle."""
        if self._persistent is None:
            raise refused("an object by a persistent id")
        return self._persistent(identity)

    def persistent_line(self) -> None:
        # only in protocol 0, which no file with persistent ids has; any text with a P looks so
        name = shown(self.readline()[:-1].decode())
        raise DamagedPickle(f"it is no pickle: persistent id '{name}'")

    def buffer(self) -> None:
        raise refused("a buffer outside of the file")

    # -- containers: only ours, and only keys whose hash is cheap ------------------------------

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Placeholder:
            raise TypeError

    def add(self) -> None:
        items, target = self.pop_mark(), self.stack[-1]
        if type(target) is set:
            target.update(map(hashable, items))
        elif type(target) is not Placeholder:
            raise TypeError

    def frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(map(hashable, items)))

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if len(items) % 2:
            raise TypeError
        if type(target) in (dict, OrderedDict):
            target.update(zip(map(hashable, items[::2]), items[1::2]))
        elif type(target) is not Placeholder:
            raise TypeError

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self.set_items(items)

    # -- lengths -------------------------------------------------------------------------------

    def integer(self, count: int) -> None:
        if count > _MAX_INTEGER_BYTES:
            raise WeightsError(f"it has an integer of {count:,} bytes; no weights have that")
        self.append(pickle.decode_long(self.read(count)))

    def bytearray(self) -> None:
        self.append(bytearray(self.read(struct.unpack("<Q", self.read(8))[0])))

    def frame(self) -> None:
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


_BASE: dict[int, Callable[[Any], None]] = {**pickle._Unpickler.dispatch}
_OPERATIONS: dict[int, Callable[[Any], None]] = {
    **_BASE,
    **{
        code[0]: _of_digits(_BASE[code[0]])
        for code in (pickle.INT, pickle.LONG, pickle.FLOAT, pickle.PUT, pickle.GET)
    },
    **{
        code[0]: operation
        for code, operation in {
            pickle.REDUCE: _Unpickler.reduce,
            pickle.NEWOBJ: _Unpickler.reduce,
            pickle.NEWOBJ_EX: _Unpickler.new_with_keywords,
            pickle.BUILD: _Unpickler.build,
            pickle.PERSID: _Unpickler.persistent_line,
            pickle.NEXT_BUFFER: _Unpickler.buffer,
            pickle.READONLY_BUFFER: _Unpickler.buffer,
            pickle.APPEND: lambda u: u.extend([u.stack.pop()]),
            pickle.APPENDS: lambda u: u.extend(u.pop_mark()),
            pickle.ADDITEMS: _Unpickler.add,
            pickle.FROZENSET: _Unpickler.frozenset,
            pickle.SETITEM: _Unpickler.set_item,
            pickle.SETITEMS: lambda u: u.set_items(u.pop_mark()),
            pickle.DICT: _Unpickler.dict,
            pickle.LONG1: lambda u: u.integer(u.read(1)[0]),
            pickle.LONG4: lambda u: u.integer(struct.unpack("<I", u.read(4))[0]),
            pickle.BYTEARRAY8: _Unpickler.bytearray,
            pickle.FRAME: _Unpickler.frame,
        }.items()
    },
}
