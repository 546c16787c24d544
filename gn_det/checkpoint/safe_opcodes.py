"""The operations of pickle protocols 0 to 5, as calls to the machine of safe_pickle.

An operation that is not here is unknown. The ones that lead out of the file (instances, extension
codes, persistent ids, buffers elsewhere) are here to be refused with a name.
"""

import codecs
import pickle as p
from collections.abc import Callable
from typing import Any

__all__ = ["OPERATIONS"]

Operation = Callable[[Any], None]


def _constant(value: Any) -> Operation:
    return lambda m: m.push(value)


def _number(form: str) -> Operation:
    return lambda m: m.push(m.unpack(form))


def _bytes(length: str) -> Operation:
    return lambda m: m.push(m.take(m.unpack(length)))


def _text(length: str, encoding: str, errors: str = "strict") -> Operation:
    return lambda m: m.push(m.take(m.unpack(length)).decode(encoding, errors))


def _put(index: Callable[[Any], int]) -> Operation:
    return lambda m: m.put(index(m))


def _get(index: Callable[[Any], int]) -> Operation:
    return lambda m: m.push(m.memo[index(m)])


def _tuple_1(m: Any) -> None:
    m.stack[-1] = (m.stack[-1],)


def _tuple_2(m: Any) -> None:
    second = m.stack.pop()
    m.stack[-1] = (m.stack[-1], second)


def _tuple_3(m: Any) -> None:
    third, second = m.stack.pop(), m.stack.pop()
    m.stack[-1] = (m.stack[-1], second, third)


def _extension(form: str) -> Operation:
    return lambda m: m.extension(m.unpack(form))


def _int(m: Any) -> None:
    digits = m.digits()
    # the booleans of protocol 0 are written with two digits
    m.push(digits == b"01" if digits in (b"00", b"01") else int(digits))


def _quoted_string(m: Any) -> None:
    line = m.line()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise ValueError("a string without quotes")
    m.push(codecs.escape_decode(line[1:-1])[0].decode("latin-1"))


def _set_item(m: Any) -> None:
    items = [m.stack.pop(), m.stack.pop()][::-1]
    m.set_items(items)


def _dict(m: Any) -> None:
    items = m.pop_mark()
    m.push({})
    m.set_items(items)


def _frame(m: Any) -> None:
    m.announced(m.unpack("<Q"))


def _no_buffer(m: Any) -> None:
    raise m.refused("a buffer outside of the file")


_INDEX = {1: lambda m: m.unpack("B"), 4: lambda m: m.unpack("<I")}

OPERATIONS: dict[bytes, Operation] = {
    # the stack, the marks, the memo
    p.PROTO: lambda m: m.protocol(),
    p.FRAME: _frame,
    p.MARK: lambda m: m.mark(),
    p.POP: lambda m: m.stack.pop() if m.stack else m.pop_mark(),
    p.POP_MARK: lambda m: m.pop_mark(),
    p.PUT: _put(lambda m: m.decimal()),
    p.BINPUT: _put(_INDEX[1]),
    p.LONG_BINPUT: _put(_INDEX[4]),
    p.MEMOIZE: _put(lambda m: len(m.memo)),
    p.GET: _get(lambda m: m.decimal()),
    p.BINGET: _get(_INDEX[1]),
    p.LONG_BINGET: _get(_INDEX[4]),
    # constants and numbers
    p.NONE: _constant(None),
    p.NEWTRUE: _constant(True),
    p.NEWFALSE: _constant(False),
    p.INT: _int,
    p.LONG: lambda m: m.push(m.decimal()),
    p.FLOAT: lambda m: m.push(float(m.digits())),
    p.BININT: _number("<i"),
    p.BININT1: _number("B"),
    p.BININT2: _number("<H"),
    p.BINFLOAT: _number(">d"),
    p.LONG1: lambda m: m.push(m.integer(m.unpack("B"))),
    p.LONG4: lambda m: m.push(m.integer(m.unpack("<i"))),
    # text and bytes
    p.STRING: _quoted_string,
    p.BINSTRING: _text("<i", "latin-1"),
    p.SHORT_BINSTRING: _text("B", "latin-1"),
    p.UNICODE: lambda m: m.push(m.line().decode("raw-unicode-escape")),
    p.SHORT_BINUNICODE: _text("B", "utf-8", "surrogatepass"),
    p.BINUNICODE: _text("<I", "utf-8", "surrogatepass"),
    p.BINUNICODE8: _text("<Q", "utf-8", "surrogatepass"),
    p.SHORT_BINBYTES: _bytes("B"),
    p.BINBYTES: _bytes("<I"),
    p.BINBYTES8: _bytes("<Q"),
    p.BYTEARRAY8: lambda m: m.push(m.take_bytearray(m.unpack("<Q"))),
    # containers
    p.EMPTY_TUPLE: _constant(()),
    p.TUPLE: lambda m: m.push(tuple(m.pop_mark())),
    p.TUPLE1: _tuple_1,
    p.TUPLE2: _tuple_2,
    p.TUPLE3: _tuple_3,
    p.EMPTY_LIST: lambda m: m.push([]),
    p.LIST: lambda m: m.push(m.pop_mark()),
    p.APPEND: lambda m: m.extend([m.stack.pop()], list),
    p.APPENDS: lambda m: m.extend(m.pop_mark(), list),
    p.EMPTY_DICT: lambda m: m.push({}),
    p.DICT: _dict,
    p.SETITEM: _set_item,
    p.SETITEMS: lambda m: m.set_items(m.pop_mark()),
    p.EMPTY_SET: lambda m: m.push(set()),
    p.ADDITEMS: lambda m: m.extend(m.pop_mark(), set),
    p.FROZENSET: lambda m: m.frozen_set(),
    # what a pickle can reach
    p.GLOBAL: lambda m: m.name_of_lines(),
    p.STACK_GLOBAL: lambda m: m.name_of_stack(),
    p.REDUCE: lambda m: m.reduce(),
    p.BUILD: lambda m: m.build(),
    p.INST: lambda m: m.instance_of_lines(),
    p.OBJ: lambda m: m.instance(),
    p.NEWOBJ: lambda m: m.instance(),
    p.NEWOBJ_EX: lambda m: m.instance(),
    p.EXT1: _extension("B"),
    p.EXT2: _extension("<H"),
    p.EXT4: _extension("<i"),
    p.PERSID: lambda m: m.persistent_of_line(),
    p.BINPERSID: lambda m: m.persistent(m.stack.pop()),
    p.NEXT_BUFFER: _no_buffer,
    p.READONLY_BUFFER: _no_buffer,
}
