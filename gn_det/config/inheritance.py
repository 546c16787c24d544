"""``_BASE_``: merges a config and the files that it inherits from into one tree.

Detectron2 looks for every base in the folder of the file that names it. Here, a base may also be
``gn_det://NAME.yaml`` or ``detectron2://PATH.yaml``, from any folder.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gn_det.utils import shorten

from .errors import ConfigError
from .paths import is_handled, resolve
from .yaml_loader import Budget, Document, read_yaml

__all__ = ["Inherited", "load_with_bases"]

BASE_KEY = "_BASE_"
# The files of one config, each counted as often as it is named. Without the limit, lists of bases
# that have lists of bases could stand for millions of files.
MAX_FILES = 64
MAX_ADDRESS = 1024  # characters; no file has a longer path


@dataclass
class Inherited:
    """A config with its bases.

    Attributes:
        tree: The keys of all files, without ``_BASE_``.
        where: The place ``"FILE:LINE"`` where each key got its value, by the path of the key.
    """

    tree: dict[str, Any] = field(default_factory=dict)
    where: dict[tuple[str, ...], str] = field(default_factory=dict)

    def find(self, name: str) -> str | None:
        """Return the ``FILE:LINE`` of a key; None where it is unknown.

        Args:
            name: The name of the key, such as ``"MODEL.GN.EPS"``.
        """
        # compares the joined path, because a key may have dots in its own name
        return next((at for path, at in self.where.items() if ".".join(path) == name), None)


def load_with_bases(address: str | os.PathLike) -> Inherited:
    """Read a config and its ``_BASE_`` files. Later bases override earlier ones, the file all.

    Args:
        address: The path or address of the config, see :func:`gn_det.config.paths.resolve`.

    Raises:
        ConfigError: A file is refused, bases form a circle, or ``_BASE_`` has a wrong value.
        FileNotFoundError: The file or a base does not exist.
    """
    address = os.fspath(address)
    return _Reader().load(resolve(address), address, [])


class _Reader:
    """Reads the files of one config.

    The chain leads from the config to a base. A link is the real path of a file, and the
    ``FILE:LINE`` that names the next file.
    """

    def __init__(self) -> None:
        self.budget = Budget()
        self.files = 0

    def load(self, path: Path, address: str, chain: list[tuple[str, str]]) -> Inherited:
        self.files += 1
        if self.files > MAX_FILES:
            raise ConfigError(
                f"{chain[-1][1]}: the config has more than {MAX_FILES} {BASE_KEY} files, each "
                "counted as often as it is named."
            )
        try:
            document = read_yaml(path, self.budget)
        except ConfigError as error:
            if not chain:
                raise
            raise ConfigError(f"{error} It is a {BASE_KEY} of {chain[-1][1]}.") from None
        result = Inherited()
        line = document.lines.get((BASE_KEY,))
        for name in _bases(path, document):
            where = f"{path}:{line}"
            name = _beside(name, address)
            base = _resolve_base(name, path, where)
            link = (os.path.realpath(path), where)
            _check_circle(base, [*chain, link])
            _merge(self.load(base, name, [*chain, link]), result)
        lines = {key: f"{path}:{line}" for key, line in document.lines.items()}
        _merge(Inherited(document.tree, lines), result)
        return result


def _bases(path: Path, document: Document) -> list[str]:
    """Remove ``_BASE_`` from a document, and return its files."""
    for key, line in document.lines.items():
        if key[-1] == BASE_KEY and len(key) > 1:
            raise ConfigError(
                f"{path}:{line}: {BASE_KEY} stands below {'.'.join(key[:-1])}; it belongs to the "
                "top of a file, in the first column."
            )
    if BASE_KEY not in document.tree:
        return []
    value, line = document.tree.pop(BASE_KEY), document.lines[(BASE_KEY,)]
    bases = value if isinstance(value, list) else [value]
    for base in bases:
        if not isinstance(base, str) or not base.strip() or len(base) > MAX_ADDRESS:
            raise ConfigError(
                f"{path}:{line}: {BASE_KEY} takes the path of a file, or a list of them, such as "
                "[base.yaml, gn_det://mask_rcnn_R50_gn_all.yaml], but "
                f"{shorten(repr(base), 77)} was given."
            )
    return bases


def _beside(base: str, address: str) -> str:
    """Return the address of a base that is relative to a file of PathManager's handlers.

    Its copy on this machine is in a folder of its own, where no base is.
    """
    if is_handled(address) and "://" not in base and not base.startswith(("/", "~")):
        return f"{address.rpartition('/')[0]}/{base}"
    return base


def _resolve_base(address: str, path: Path, where: str) -> Path:
    try:
        return resolve(address, path.parent)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: its {BASE_KEY} {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: its {BASE_KEY} {error}") from None


def _check_circle(base: Path, chain: list[tuple[str, str]]) -> None:
    real = os.path.realpath(base)
    for index, (link, _) in enumerate(chain):
        if link == real:
            shown = " -> ".join([*(where for _, where in chain[index:]), str(base)])
            raise ConfigError(f"{chain[-1][1]}: the {BASE_KEY} files form a circle: {shown}")


def _merge(source: Inherited, target: Inherited) -> None:
    """Merge ``source`` into ``target``, group by group. Values of ``source`` override others."""

    def merge(theirs: dict[str, Any], mine: dict[str, Any], path: tuple[str, ...]) -> None:
        for key, value in theirs.items():
            if not isinstance(value, dict) or key not in mine:
                mine[key] = value
                continue
            name = (*path, key)
            if not isinstance(mine[key], dict):
                raise ConfigError(
                    f"{source.where[name]}: {'.'.join(name)} holds keys here, but it is a single "
                    f"value, {shorten(repr(mine[key]), 77)}, in {target.where[name]}."
                )
            merge(value, mine[key], name)

    merge(source.tree, target.tree, ())
    target.where.update(source.where)
