"""Reads one YAML file: plain values only, where each key stands, and limits on its size.

PyYAML's safe loader does the scanning and parsing. What is done here in addition: no tag makes
anything but text, numbers, booleans, null, lists and mappings; a key given twice is refused (PyYAML
keeps the last one and says nothing); aliases are counted as often as they are used (a few
lines of them can stand for billions of values).
"""

import ast
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError

__all__ = ["Budget", "Document", "read_yaml"]

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
# all files of a chain together; Detectron2's whole config has some 400 keys
MAX_VALUES = 20_000
# of one text; also keeps yacs, which reads text as a Python literal, at a harmless size
MAX_TEXT = 4096
MAX_KEY = 200  # characters; a key is shown whole where something is wrong with it

_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + name for name in ("str", "int", "float", "bool", "null")}
_MERGE = _TAG + "merge"

KeyPath = tuple[str, ...]


@dataclass
class Budget:
    """What may still be read, shared by all files of a chain."""

    values: int = MAX_VALUES

    def spend(self) -> bool:
        """Take one value; return whether it was still there."""
        self.values -= 1
        return self.values >= 0


@dataclass
class Document:
    """A YAML file.

    Attributes:
        tree: its mapping; lists and mappings in it belong to nobody else.
        lines: the line, from 1, of each key by its path, such as ``("MODEL", "WEIGHTS")``.
    """

    tree: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)


class _Refused(Exception):
    """Why a file is refused, and the line of it, from 1."""

    def __init__(self, reason: str, line: int | None = None):
        super().__init__(reason, line)
        self.reason, self.line = reason, line


def read_yaml(path: Path, budget: Budget | None = None) -> Document:
    """Read one file, without its bases.

    Args:
        path: of the file.
        budget: of values, where several files share one.

    Raises:
        ConfigError: the file is refused; the message begins with ``FILE:LINE:``, or ``FILE:``
            where there is no line.
    """
    try:
        return _read(_read_text(path), budget or Budget())
    except _Refused as refused:
        where = f"{path}:{refused.line}" if refused.line else f"{path}"
        raise ConfigError(f"{where}: {refused.reason}") from None


def _read_text(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise _Refused("this is a folder; name a YAML file in it.")
        if not stat.S_ISREG(mode):  # a pipe would wait for ever, a device might never end
            raise _Refused("this is a pipe or a device, not a file.")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _Refused(f"it cannot be read ({error.strerror}).") from None
    if len(data) > MAX_BYTES:
        raise _Refused(f"it has more than {MAX_BYTES / 1e6:g} MB, which no config needs.")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _Refused("it is UTF-16; save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _Refused("it is not a text in UTF-8, and so no YAML file.", line) from None


class _Loader(yaml.SafeLoader):
    """The safe loader up to the graph of nodes, with limits on its size."""

    def __init__(self, text: str, budget: Budget):
        super().__init__(text)
        self._depth, self._budget = 0, budget.values

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        mark = self.peek_event().start_mark
        self._depth += 1
        self._budget -= 1
        if self._depth > MAX_DEPTH:
            raise _Refused(f"values are nested more than {MAX_DEPTH} deep.", mark.line + 1)
        if self._budget < 0:
            raise _too_many(mark.line + 1)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _read(text: str, budget: Budget) -> Document:
    try:
        loader = _Loader(text, budget)
    except yaml.reader.ReaderError as error:  # NUL and other control characters
        line = text.count("\n", 0, error.position) + 1
        raise _Refused(
            f"it has a character that no text has ({error.character:#x}).", line
        ) from None
    try:
        root = loader.get_single_node()
        if root is not None and root.tag not in (*_SCALARS, _TAG + "seq", _TAG + "map"):
            raise _bad_tag(root.tag, root.start_mark.line + 1)
        if root is None or not isinstance(root, yaml.MappingNode):
            raise _Refused("it holds no 'KEY: value' lines.", 1 if root else None)
        document = Document({})
        document.tree = _Builder(loader, budget, document.lines).mapping(root, ())
        return document
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error) from None
    except (ValueError, OverflowError) as error:  # "\UFFFFFFFF"
        raise _Refused(f"it is not YAML: {error}.", loader.line + 1) from None
    finally:
        loader.dispose()


def _syntax_error(error: yaml.MarkedYAMLError) -> _Refused:
    mark = error.problem_mark or error.context_mark
    # they may quote a name of the file, as long as the file has it
    parts = [part[:120] for part in (error.context, error.problem) if part]
    hint = " YAML is indented by spaces, not tabs." if "\\t" in (error.problem or "") else ""
    return _Refused(f"it is not YAML: {', '.join(parts)}.{hint}", mark.line + 1 if mark else None)


def _too_many(line: int) -> _Refused:
    return _Refused(
        f"it has more than {MAX_VALUES} values (with its _BASE_ files, and aliases counted as "
        "often as they are used), which no config needs.",
        line,
    )


class _Builder:
    """Turns nodes into values.

    Args:
        loader: makes the values of scalars.
        budget: of values.
        lines: gets the line of each key.
    """

    def __init__(self, loader: yaml.SafeLoader, budget: Budget, lines: dict[KeyPath, int]):
        self.loader, self.budget, self.lines = loader, budget, lines
        self.parents: list[yaml.Node] = []

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        line = node.start_mark.line + 1
        if not self.budget.spend():
            raise _too_many(line)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, line)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if node.tag != _TAG + "seq":
            raise _bad_tag(node.tag, line)
        self.enter(node)
        values = [self.value(item, path) for item in node.value]
        self.parents.pop()
        return values

    def enter(self, node: yaml.Node) -> None:
        line = node.start_mark.line + 1
        if any(node is parent for parent in self.parents):
            raise _Refused("a value contains itself (by an alias).", line)
        if len(self.parents) > MAX_DEPTH:
            raise _Refused(f"values are nested more than {MAX_DEPTH} deep.", line)
        self.parents.append(node)

    def scalar(self, node: yaml.ScalarNode, line: int) -> Any:
        if node.tag not in _SCALARS:
            raise _bad_tag(node.tag, line)
        if len(node.value) > MAX_TEXT:
            raise _Refused(f"a text has more than {MAX_TEXT} characters.", line)
        try:
            value = self.loader.construct_object(node)
        except (ValueError, LookupError, OverflowError, yaml.constructor.ConstructorError):
            # !!int "many"
            kind = node.tag.removeprefix(_TAG)
            raise _Refused(f"{node.value[:40]!r} is not of YAML's type {kind}.", line) from None
        if isinstance(value, str):
            try:
                ast.literal_eval(value)  # as yacs will do
            except (ValueError, SyntaxError):
                pass  # a plain text
            except (RecursionError, MemoryError, TypeError):
                raise _Refused(f"the text {value[:20]!r}... cannot be a value.", line) from None
        return value

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        if node.tag != _TAG + "map":
            raise _bad_tag(node.tag, node.start_mark.line + 1)
        self.enter(node)
        values, seen = {}, {}
        for key_node, value_node in node.value:
            key, line = self.key(key_node), key_node.start_mark.line + 1
            if key in seen:
                name = ".".join((*path, key))
                raise _Refused(
                    f"the key {name} is given twice, in line {seen[key]} and in line {line}; "
                    "keep one of them.",
                    line,
                )
            seen[key] = line
            if key_node.tag != _MERGE:
                values[key] = self.value(value_node, (*path, key))
                self.lines[(*path, key)] = line
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                for source in _merged(value_node):
                    self.merge(source, values, path)
        self.parents.pop()
        return values

    def key(self, node: yaml.Node) -> str:
        line = node.start_mark.line + 1
        if node.tag == _MERGE:
            return "<<"
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _SCALARS:
            raise _Refused("a key is not a plain name.", line)
        key = self.scalar(node, line)
        if not isinstance(key, str):
            raise _Refused(f"the key {node.value[:40]!r} is no text, but a {_kind(key)}.", line)
        if len(key) > MAX_KEY:
            raise _Refused(f"a key has more than {MAX_KEY} characters.", line)
        if not key.isprintable():
            raise _Refused(f"the key {key[:40]!r} has characters that cannot be printed.", line)
        return key

    def merge(self, node: yaml.MappingNode, into: dict[str, Any], path: KeyPath) -> None:
        """Add what ``<<: *anchor`` brings; what is there already stays."""
        lines, self.lines = self.lines, {}
        brought = self.mapping(node, path)
        new = {key: value for key, value in brought.items() if key not in into}
        into.update(new)
        lines.update({p: line for p, line in self.lines.items() if p[len(path)] in new})
        self.lines = lines


def _merged(node: yaml.Node) -> Iterator[yaml.MappingNode]:
    sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
    for source in sources:
        if not isinstance(source, yaml.MappingNode):
            line = source.start_mark.line + 1
            raise _Refused("'<<' takes a mapping, or a list of mappings.", line)
        yield source


def _kind(value: Any) -> str:
    return {bool: "boolean", int: "number", float: "number", type(None): "null"}[type(value)]


def _bad_tag(tag: str, line: int) -> _Refused:
    short = tag.replace(_TAG, "!!", 1)
    if short == "!!python/tuple":
        return _Refused("the tag !!python/tuple is not read; write a list, [1, 2].", line)
    if short.startswith("!!python/"):
        return _Refused(
            f"the tag {short[:80]} asks for Python objects or code, which is never made or run "
            "from a YAML. Write the plain value.",
            line,
        )
    if short == "!!timestamp":
        return _Refused("this reads as a date; put it in quotes.", line)
    return _Refused(
        f"the tag {short[:80]} is not read: a value is text, a number, True, False, null, a list "
        "or a mapping.",
        line,
    )
