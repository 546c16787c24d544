"""Reads a COCO json record by record: the memory holds a few blocks, whatever the file's size.

Python's own decoder reads each record. This module adds three things. It reads the lists of the
outermost level without holding them. It joins blocks that end inside a record. And it reports each
way in which a file can fail to be JSON in one line, with the place.
"""

import codecs
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from gn_det.data.errors import DatasetError
from gn_det.utils import identify_content, open_regular

__all__ = ["CocoJson", "Record"]

BLOCK = 1 << 22  # bytes
MAX_RECORD = 1 << 24  # characters; the decoded values take up to 25 times as many bytes
# A number or word that a block cuts off so close to its end may look complete.
_EDGE = 64
_BLANKS = re.compile(r"[ \t\n\r]*")


class Record(NamedTuple):
    """A record of one of the lists, or a whole value of the outermost level.

    Attributes:
        section: The key in the file: "images", "annotations", "categories", or any other.
        place: The place in the list, from 0; None where the section is not a list.
        value: The decoded value.
        remarks: The problems (kind, detail) of the text that the value does not show.
    """

    section: str
    place: int | None
    value: Any
    remarks: tuple[tuple[str, str], ...]

    @property
    def where(self) -> str:
        """The place for a message: ``images[3] (id 7)``."""
        if self.place is None:
            return self.section
        number = self.value.get("id") if isinstance(self.value, dict) else None
        at = f"{self.section}[{self.place}]"
        return f"{at} (id {number})" if type(number) in (int, str) else at


class CocoJson:
    """The records of a file, in the order of the file. Each iteration reads the file again.

    Args:
        path: The path of the file.
        progress: The function that gets the number of bytes after each read.
        block: The number of bytes of one read.

    Attributes:
        encoding: The encoding, such as "utf-8"; known once an iteration has begun.
        counts: The number of records by section, for the sections that are lists.
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
            DatasetError: The file cannot be read, or is not JSON. The message is one line that
                begins with the path. The records before the error were yielded by then.
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
                'reads. A dataset is {"images": [...], "annotations": [...], "categories": [...]}.'
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
    """The reason why a file is refused."""


class _Text:
    """A window that moves over the text of a file.

    Args:
        file: The open file.
        block: The number of bytes of one read.
        progress: The function that gets the number of bytes after each read.
    """

    def __init__(self, file: BinaryIO, block: int, progress: Callable[[int], Any] | None):
        self._file, self._block, self._progress = file, block, progress
        head = file.read(512)
        file.seek(0)
        self.encoding = json.detect_encoding(head)
        if what := identify_content(head):
            raise _Refused(f"it is {what}.")
        self._decode = codecs.getincrementaldecoder(self.encoding)().decode
        self._text, self._at, self._ended = "", 0, False
        self._lines, self._columns = 0, 0  # of what has left the window
        self._remarks: dict[str, str] = {}
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant
        )

    def peek(self) -> str:
        """Return the next character that is not blank, "" at the end."""
        while True:
            if blanks := _BLANKS.match(self._text, self._at):  # always: it matches "" too
                self._at = blanks.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, expected: str) -> str:
        """Read the next character, which must be one of ``expected``."""
        found = self.peek()
        if not found or found not in expected:
            raise self.refused(f"{' or '.join(expected)} is expected")
        self._at += 1
        return found

    def value(self) -> Any:
        """Read the next value."""
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
        """Return the problems (kind, detail) of the text of the last value."""
        return tuple(self._remarks.items())

    def line_number(self) -> int:
        """Return the current line, from 1."""
        return self._lines + self._text.count("\n", 0, self._at) + 1

    def refused(self, reason: str, at: int | None = None) -> _Refused:
        """Return the error for a place in the window; by default, for the current place."""
        at = self._at if at is None else at
        if self._ended and (at >= len(self._text) or reason.startswith("Unterminated")):
            return _Refused("it is cut off: the JSON does not end. Copy or download it again.")
        line = self._lines + self._text.count("\n", 0, at) + 1
        start = self._text.rfind("\n", 0, at)
        column = at - start if start >= 0 else self._columns + at + 1
        near = ascii(self._text[at : at + 20])
        return _Refused(f"it is not JSON: {reason}, at line {line}, column {column}, near {near}.")

    def _more(self) -> bool:
        """Read the next block, and drop the text before the current place.

        Returns:
            Whether there was a block.
        """
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
            what = "UTF-8, so not JSON" if "utf-8" in self.encoding else self.encoding.upper()
            raise _Refused(
                f"it is not text in {what}, at about byte {before + error.start:,}. "
                "Save it as UTF-8."
            ) from None
        if self._progress is not None:
            self._progress(len(data))
        self._ended = not data
        return bool(data)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    self._remarks.setdefault("key-twice", name)
                    break
                seen.add(name)
        return record

    def _constant(self, name: str) -> float:
        self._remarks.setdefault("nan-literal", name)
        return float(name.replace("Infinity", "inf"))
