"""Reads a COCO json one record at a time: memory stays at a few blocks, whatever the file's size.

Python's own decoder reads each record. What is done here in addition: the lists of the outermost
level are walked through without being held, blocks that end within a record are joined, and every
way in which a file can be no JSON ends in one line that says where.
"""

import codecs
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from gn_det.data.errors import DatasetError
from gn_det.data.open_file import instead_of, open_regular

__all__ = ["CocoJson", "Record"]

BLOCK = 1 << 22  # bytes
MAX_RECORD = 1 << 24  # characters; Python makes up to 25 times as many bytes out of them
# a number or word that a block cuts within this distance of its end may look whole
_EDGE = 64
_BLANKS = re.compile(r"[ \t\n\r]*")


class Record(NamedTuple):
    """A record of one of the lists, or a whole value of the outermost level.

    Attributes:
        section: "images", "annotations", "categories", or any other key of the file.
        index: its place in the list, from 0; None where the section is no list.
        value: what the record says.
        remarks: (kind, detail) of what its text has that its value does not tell.
    """

    section: str
    index: int | None
    value: Any
    remarks: tuple[tuple[str, str], ...]


class CocoJson:
    """The records of a file, in its order. Iterating again reads it again.

    Args:
        path: of the file.
        progress: called with the number of bytes after each read.
        block: bytes read at once.

    Attributes:
        encoding: "utf-8" or what it is instead; known once iteration has begun.
        counts: records by section, of those sections that are lists.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        progress: Callable[[int], Any] | None = None,
        block: int = BLOCK,
    ):
        self.path, self._progress, self._block = path, progress, block
        self.encoding = "utf-8"
        self.counts: dict[str, int] = {}

    def __iter__(self) -> Iterator[Record]:
        """Yield every record.

        Raises:
            DatasetError: the file cannot be read, or is no JSON; one line that starts with its
                path. Records before the place of the error have been handed out by then.
        """
        try:
            with open_regular(self.path) as file:
                yield from self._records(file)
        except _Refused as refused:
            raise DatasetError(f"{self.path}: {refused}") from None
        except OSError as error:
            raise DatasetError(
                f"{self.path}: it cannot be read: {error.strerror or error}."
            ) from None

    def _records(self, file: BinaryIO) -> Iterator[Record]:
        text = _Text(file, self._block, self._progress)
        self.encoding, self.counts = text.encoding, {}
        start = text.peek()
        if start == "[":
            raise _Refused(
                "it is a list: perhaps a model's results, which gn-det evaluate --predictions "
                'takes. A dataset is {"images": [...], "annotations": [...], "categories": [...]}.'
            )
        if not start:
            raise _Refused("it is empty.")
        if start != "{":
            raise text.refused('a dataset starts with "{"')
        text.take("{")
        seen: dict[str, int] = {}
        more = text.peek() != "}" or text.take("}") != "}"
        while more:
            if text.peek() != '"':
                raise text.refused("a key in double quotes is expected")
            line, key = text.line_number(), text.value()
            if key in seen:
                raise _Refused(
                    f"the key {ascii(key)[:40]} is there twice, in line {seen[key]} and in line "
                    f"{line}, and readers would keep the second alone. Make one list of the two."
                )
            seen[key] = line
            text.take(":")
            if text.peek() == "[":
                self.counts[key] = 0
                yield from self._list(text, key)
            else:
                yield Record(key, None, text.value(), text.remarks())
            more = text.take(",}") == ","
        if text.peek():
            raise text.refused("there is more after the end of the JSON")

    def _list(self, text: "_Text", section: str) -> Iterator[Record]:
        text.take("[")
        more = text.peek() != "]" or text.take("]") != "]"
        while more:
            value = text.value()
            self.counts[section] += 1
            yield Record(section, self.counts[section] - 1, value, text.remarks())
            more = text.take(",]") == ","


class _Refused(Exception):
    """Why a file is refused."""


class _Text:
    """A window that moves over the text of a file."""

    def __init__(self, file: BinaryIO, block: int, progress: Callable[[int], Any] | None):
        self._file, self._block, self._progress = file, block, progress
        head = file.read(512)
        file.seek(0)
        self.encoding = json.detect_encoding(head)
        if what := instead_of(head):
            raise _Refused(f"it is {what}.")
        self._decode = codecs.getincrementaldecoder(self.encoding)().decode
        self._text, self._at, self._ended = "", 0, False
        self._lines, self._columns = 0, 0  # of what has left the window
        self._remarks: dict[str, str] = {}
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant
        )

    def peek(self) -> str:
        """Return the next character that is no blank, "" at the end."""
        while True:
            self._at = _BLANKS.match(self._text, self._at).end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, expected: str) -> str:
        """Take the next character, which must be one of ``expected``."""
        found = self.peek()
        if not found or found not in expected:
            raise self.refused(f"{' or '.join(expected)} is expected")
        self._at += 1
        return found

    def value(self) -> Any:
        """Take the next value."""
        self.peek()
        while True:
            self._remarks = {}
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                unended = error.msg.startswith("Unterminated")
                if self._ended or not (unended or error.pos > len(self._text) - _EDGE):
                    raise self.refused(error.msg, error.pos) from None
            except RecursionError:
                raise self.refused("values are nested too deep for a dataset") from None
            except ValueError:  # Python's limit on the digits of an integer
                raise self.refused("a number has thousands of digits") from None
            else:
                if self._ended or end <= len(self._text) - _EDGE:
                    self._at = end
                    return value
            if len(self._text) - self._at > MAX_RECORD:
                raise self.refused(f"one record has more than {MAX_RECORD:,} characters")
            self._more()

    def remarks(self) -> tuple[tuple[str, str], ...]:
        """Return (kind, detail) of what the last value's text had beside the value."""
        return tuple(self._remarks.items())

    def line_number(self) -> int:
        """Return the line, from 1, where the window stands."""
        return self._lines + self._text.count("\n", 0, self._at) + 1

    def refused(self, reason: str, at: int | None = None) -> _Refused:
        """Return the error for a place of the window, its beginning by default."""
        at = self._at if at is None else at
        if self._ended and (at >= len(self._text) or reason.startswith("Unterminated")):
            return _Refused("it is cut off: the JSON does not end. Copy or download it again.")
        line = self._lines + self._text.count("\n", 0, at) + 1
        start = self._text.rfind("\n", 0, at)
        column = at - start if start >= 0 else self._columns + at + 1
        near = ascii(self._text[at : at + 20])
        return _Refused(f"it is not JSON: {reason}, at line {line}, column {column}, near {near}.")

    def _more(self) -> bool:
        """Read the next block, and let go of what was taken; return whether there was one."""
        if self._ended:
            return False
        taken, self._text, self._at = self._text[: self._at], self._text[self._at :], 0
        self._lines += taken.count("\n")
        newline = taken.rfind("\n")
        self._columns = len(taken) - newline - 1 + (self._columns if newline < 0 else 0)
        before = self._file.tell()
        data = self._file.read(self._block)
        try:
            self._text += self._decode(data, not data)
        except UnicodeDecodeError as error:
            what = "UTF-8, and so no JSON" if "utf-8" in self.encoding else self.encoding.upper()
            raise _Refused(
                f"it is not a text in {what}, at about byte {before + error.start:,}. "
                "Save it as UTF-8."
            ) from None
        if self._progress is not None:
            self._progress(len(data))
        self._ended = not data
        return bool(data)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            seen: set[str] = set()
            # add() returns None: the first name that is there already is found
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))
            self._remarks.setdefault("key-twice", twice)
        return made

    def _constant(self, name: str) -> float:
        self._remarks.setdefault("nan-literal", name)
        return float(name.replace("Infinity", "inf"))
