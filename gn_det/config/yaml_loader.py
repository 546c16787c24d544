"""Reads one YAML file: plain values only, the line of each key, and limits on its size.

PyYAML's safe loader scans and parses. This module adds three things. No tag makes anything but
text, numbers, booleans, null, lists and mappings; of ``eval``, only :mod:`.arithmetic` is read. A
key that is given twice is refused (PyYAML silently keeps the last one). And an alias counts as
often as it is used, because a few lines of aliases can stand for billions of values.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gn_det.utils import open_regular

from .arithmetic import evaluate
from .errors import ConfigError

__all__ = ["Budget", "Document", "read_yaml"]

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
# of a config and its bases together; Detectron2's whole config has about 400 keys
MAX_VALUES = 20_000
# characters of one text; yacs parses texts as Python literals, which is harmless at this length
MAX_TEXT = 4096
MAX_KEY = 200  # characters; messages show a whole key

_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + name for name in ("str", "int", "float", "bool", "null")}
_MERGE = _TAG + "merge"
_EVAL = _TAG + "python/object/apply:eval"

KeyPath = tuple[str, ...]


@dataclass
class Budget:
    """The number of values that may still be read, shared by a config and its bases.

    Attributes:
        values: The number of values; below 0, the config is refused.
    """

    values: int = MAX_VALUES

    def spend(self) -> bool:
        """Count one value, and return whether the budget allowed it."""
        self.values -= 1
        return self.values >= 0


@dataclass
class Document:
    """The content of a YAML file.

    Attributes:
        tree: The mapping. No list or mapping in it is shared with another place.
        lines: The line, from 1, of each key by its path, such as ``("MODEL", "WEIGHTS")``.
    """

    tree: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)


class _Refused(Exception):
    """The reason why a file is refused.

    Args:
        reason: The reason, for a person.
        line: The line, from 1; None where there is none.
    """

    def __init__(self, reason: str, line: int | None = None):
        super().__init__(reason, line)
        self.reason, self.line = reason, line


def read_yaml(path: Path, budget: Budget | None = None) -> Document:
    """Read one file, without its bases.

    Args:
        path: The path of the file.
        budget: The number of values that may be read, where several files share it.

    Raises:
        ConfigError: The file is refused. The message begins with ``FILE:LINE:``, or ``FILE:``
            where there is no line.
    """
    try:
        return _read(_read_text(path), budget or Budget())
    except _Refused as refused:
        where = f"{path}:{refused.line}" if refused.line else f"{path}"
        raise ConfigError(f"{where}: {refused.reason}") from None


def _read_text(path: Path) -> str:
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise _Refused("it is a folder; name a YAML file in it.") from None
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
        raise _Refused("it is not text in UTF-8, so not a YAML file.", line) from None


class _Loader(yaml.SafeLoader):
    """The safe loader, used up to the graph of nodes, with limits on the graph's size."""

    def __init__(self, text: str, budget: Budget):
        super().__init__(text)
        self._depth, self._budget = 0, budget.values

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
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
            f"it has a character that is not text ({error.character:#x}).", line
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
    # cut, because they may quote a very long name from the file
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
    """Builds values from nodes.

    Args:
        loader: The loader that builds the values of scalars.
        budget: The number of values that may be built.
        lines: The dict that gets the line of each key.
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
        if node.tag == _EVAL:
            return self.arithmetic(node, line)
        if node.tag != _TAG + "seq":
            raise _bad_tag(node.tag, line)
        self.enter(node)
        values = [self.value(item, path) for item in node.value]
        self.parents.pop()
        return values

    def arithmetic(self, node: yaml.Node, line: int) -> Any:
        match node.value:
            case [yaml.ScalarNode(value=text)] if len(text) <= MAX_TEXT:
                try:
                    return evaluate(text, self.budget.spend)
                except ValueError:
                    pass
        raise _bad_tag(node.tag, line)

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
                ast.literal_eval(value)  # yacs will do this too
            except (ValueError, SyntaxError):
                pass  # plain text
            except (RecursionError, MemoryError, TypeError):
                raise _Refused(f"the text {value[:20]!r}... cannot be a value.", line) from None
        return value

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        if node.tag != _TAG + "map":
            raise _bad_tag(node.tag, node.start_mark.line + 1)
        self.enter(node)
        values: dict[str, Any] = {}
        seen: dict[str, int] = {}
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
            raise _Refused(f"the key {node.value[:40]!r} is not text, but a {_kind(key)}.", line)
        if len(key) > MAX_KEY:
            raise _Refused(f"a key has more than {MAX_KEY} characters.", line)
        if not key.isprintable():
            raise _Refused(f"the key {key[:40]!r} has characters that cannot be printed.", line)
        return key

    def merge(self, node: yaml.MappingNode, into: dict[str, Any], path: KeyPath) -> None:
        """Add the keys of ``<<: *anchor`` that ``into`` does not have."""
        lines, self.lines = self.lines, {}
        merged = self.mapping(node, path)
        new = {key: value for key, value in merged.items() if key not in into}
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
            f"the tag {short[:80]} asks for Python objects or code. A YAML never creates or runs "
            "them. Write the plain value.",
            line,
        )
    if short == "!!timestamp":
        return _Refused("this reads as a date; put it in quotes.", line)
    return _Refused(
        f"the tag {short[:80]} is not read: a value is text, a number, True, False, null, a list "
        "or a mapping.",
        line,
    )
