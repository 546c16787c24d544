"""A pickle machine that knows no code: a name stands for an entry of a table, or is refused.

``pickle.load`` imports and calls what a file names, and allocates what a file announces. Here a
name is only looked up in a :class:`Vocabulary`; no module is imported and no attribute is read.
What is not there is refused at once, before anything else of the file is looked at. Memory is
bounded by a small multiple of the file plus about 100 MB for small objects.
"""

import gc
import pickle
import struct
from _compat_pickle import (
    IMPORT_MAPPING,
    NAME_MAPPING,
)  # the names of Python 2, as pickle maps them
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from .errors import WeightsError
from .safe_content import check_content, check_keys, shown
from .safe_opcodes import OPERATIONS

__all__ = ["Budget", "DamagedPickle", "Global", "Vocabulary", "load_pickle"]

# Ten times what the largest published detectors need: bounds time (under a second) and memory
MAX_OPCODES = 500_000
# 64 bits signed or unsigned; larger integers are no weights, and hash to the same value at will
_MAX_INTEGER_BYTES = 9
_MAX_DIGITS = 40
# more than that is first compared with the rest of the file, and only then allocated
_SMALL = 1 << 16


class DamagedPickle(WeightsError):
    """Bytes that are no pickle, or not a whole one."""


@dataclass(frozen=True)
class Global:
    """The stand-in of a named object: nothing but its name."""

    name: str


class Budget:
    """Bytes that may be made out of a file: repeating a reference to a string costs two bytes."""

    def __init__(self, file_size: int):
        self._left = 4 * file_size + (1 << 20)

    def charge(self, count: int) -> None:
        """Take ``count`` bytes.

        Raises:
            WeightsError: the file would unpack to more than four times its size.
        """
        self._left -= count
        if self._left < 0:
            raise WeightsError("it unpacks to far more than its size; no weights do that")


@dataclass(frozen=True)
class Vocabulary:
    """What a pickle may name.

    ``calls``: full name -> function(budget, *arguments) for REDUCE; None where it is no function.
    ``builds``: exact type -> function(budget, object, state) for BUILD, in place.
    ``leaves``: function(object) whether it may be in the result, besides Python's own types.
    ``values``: names that may be in the result themselves, such as a dtype.
    ``persistent``: function(id) for objects that the pickle keeps elsewhere.
    """

    calls: Mapping[str, Callable[..., Any] | None]
    builds: Mapping[type, Callable[[Budget, Any, Any], None]]
    leaves: Callable[[Any], bool]
    values: frozenset[str] = field(default_factory=frozenset)
    persistent: Callable[[Any], Any] | None = None

    def is_data(self, item: Any) -> bool:
        """Return whether an object that is none of Python's own may be in the result."""
        return item.name in self.values if type(item) is Global else self.leaves(item)


def load_pickle(file: BinaryIO, size: int, vocabulary: Vocabulary) -> Any:
    """Read one pickle of protocol 0 to 5; strings of Python 2 are taken as Latin-1.

    Args:
        file: a seekable file at the start of the pickle; left behind its end.
        size: the length of the whole file in bytes.
        vocabulary: what the pickle may name.

    Raises:
        WeightsError: it names something else, or is built to exhaust time or memory.
        DamagedPickle: it is no pickle, or not a whole one.
    """
    collects = gc.isenabled()
    gc.disable()  # it would walk through hundreds of thousands of new objects again and again
    try:
        content = _Machine(file, size, vocabulary).run()
        check_content(content, MAX_OPCODES, vocabulary.is_data)
    except WeightsError:  # a ValueError too
        raise
    except (IndexError, KeyError, OverflowError, TypeError, ValueError, struct.error) as error:
        raise DamagedPickle(f"it is damaged, or no pickle, at byte {file.tell()}") from error
    finally:
        if collects:
            gc.enable()
    return content


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, file: BinaryIO, size: int, vocabulary: Vocabulary):
        self._file, self._size, self._vocabulary = file, size, vocabulary
        self._budget = Budget(size)
        self.stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}  # a dict: an index of 4 billion costs what any other does

    def run(self) -> Any:
        read, operations = self._file.read, OPERATIONS
        for _ in range(MAX_OPCODES):
            code = read(1)
            if code == pickle.STOP:
                return self.stack.pop()
            operation = operations.get(code)
            if operation is None:
                what = f"unknown operation {code!r}" if code else "its end is missing"
                raise DamagedPickle(f"it is damaged or cut off at byte {self._file.tell()}: {what}")
            operation(self)
        raise WeightsError(f"it has more than {MAX_OPCODES:,} parts; no weights have that")

    # -- reading -------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        """Read exactly ``count`` bytes; never allocate more than the file has."""
        self.announced(count)
        data = self._file.read(count)
        if len(data) < count:
            raise DamagedPickle(f"it is cut off at byte {self._file.tell()}")
        return data

    def take_bytearray(self, count: int) -> bytearray:
        self.announced(count)
        data = bytearray(count)
        if self._file.readinto(data) < count:  # type: ignore[attr-defined]
            raise DamagedPickle(f"it is cut off at byte {self._file.tell()}")
        return data

    def announced(self, count: int) -> None:
        if 0 <= count <= _SMALL:
            return
        left = self._size - self._file.tell()
        if not 0 <= count <= left:
            raise DamagedPickle(
                f"it is damaged or cut off at byte {self._file.tell()}: it announces "
                f"{count:,} bytes, and {left:,} are left"
            )

    def unpack(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise DamagedPickle(f"it is cut off at byte {self._file.tell()}")
        return line[:-1]

    def digits(self) -> bytes:
        """Return a line with a number; Python takes quadratic time for a million digits."""
        line = self.line()
        if len(line) > _MAX_DIGITS:
            raise WeightsError(f"it has a number of {len(line):,} digits; no weights have that")
        return line

    def decimal(self) -> int:
        return int(self.digits().removesuffix(b"L"))

    def integer(self, count: int) -> int:
        if count > _MAX_INTEGER_BYTES:
            raise WeightsError(f"it has an integer of {count:,} bytes; no weights have that")
        return int.from_bytes(self.take(count), "little", signed=True)

    # -- the stack -----------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self._marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._marks.pop()
        return items

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    # -- containers ----------------------------------------------------------------------------

    def extend(self, items: list[Any], kind: type) -> None:
        if type(self.stack[-1]) is not kind:
            raise TypeError
        if kind is set:
            check_keys(items)
            self.stack[-1].update(items)
        else:
            self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) not in (dict, OrderedDict) or len(items) % 2:
            raise TypeError
        check_keys(items[::2])
        self.stack[-1].update(zip(items[::2], items[1::2]))

    def frozen_set(self) -> None:
        items = self.pop_mark()
        check_keys(items)
        self.push(frozenset(items))

    # -- what a pickle can reach ---------------------------------------------------------------

    def name(self, module: str, name: str) -> None:
        if type(module) is not str or type(name) is not str:
            raise TypeError
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if full not in self._vocabulary.calls:
            raise self.refused(full)
        self.push(Global(full))

    def name_of_lines(self) -> None:
        module, name = self.line().decode(), self.line().decode()
        if not all(part.isidentifier() for part in f"{module}.{name}".split(".")):
            raise DamagedPickle(f"it is no pickle: it names '{shown(module)}.{shown(name)}'")
        self.name(module, name)

    def name_of_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Global or type(arguments) is not tuple:
            raise TypeError
        call = self._vocabulary.calls[function.name]
        if call is None:
            raise self.refused(function.name)
        with _UsedWrongly(function.name):
            self.push(call(self._budget, *arguments))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        name = target.name if type(target) is Global else type(target).__name__
        build = self._vocabulary.builds.get(type(target))
        if build is None:
            raise self.refused(f"the state of {name}")
        with _UsedWrongly(name):
            build(self._budget, target, state)

    def instance(self) -> None:
        """Refuse OBJ, NEWOBJ and NEWOBJ_EX: arrays and containers are never written that way."""
        names = [item.name for item in self.stack[-3:] if type(item) is Global]
        raise self.refused(f"an instance of {names[-1]}")

    def instance_of_lines(self) -> None:
        self.name_of_lines()
        self.instance()

    def extension(self, code: int) -> None:
        raise self.refused(f"the extension {code} of copyreg")

    def persistent_of_line(self) -> None:
        # only of protocol 0, which no file with persistent ids has; any text with a P looks so
        raise DamagedPickle(f"it is no pickle: persistent id '{shown(self.line().decode())}'")

    def persistent(self, identity: Any) -> None:
        if self._vocabulary.persistent is None:
            raise self.refused("an object by a persistent id")
        self.push(self._vocabulary.persistent(identity))

    def refused(self, name: str) -> WeightsError:
        return WeightsError(
            f"refused, and nothing of it was run: it reaches for {shown(name)}, and weights are "
            "only arrays, numbers, strings and containers"
        )

    def protocol(self) -> None:
        if (version := self.take(1)[0]) > pickle.HIGHEST_PROTOCOL:
            raise DamagedPickle(f"it is damaged, or no pickle: protocol {version}")


class _UsedWrongly:
    """Turn what a table's function raises for arguments that do not fit into a clear refusal."""

    def __init__(self, name: str):
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, _traceback: Any) -> None:
        wrong = (AttributeError, IndexError, OverflowError, TypeError, ValueError)
        if isinstance(error, wrong) and not isinstance(error, WeightsError):
            raise WeightsError(
                f"refused: it uses {shown(self._name)} as no file of weights does"
            ) from error
