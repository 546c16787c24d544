"""A config whose errors say which key was likely meant, and which never runs code from a YAML."""

import difflib
import os
import re
from collections.abc import Iterator
from typing import Any

import detectron2.config

from .defaults import add_gn_config
from .errors import ConfigError, UnknownKeyError
from .inheritance import load_with_bases
from .paths import resolve

__all__ = ["CfgNode", "flatten", "get_cfg"]

# what yacs, fvcore and Detectron2 raise on values that they did not expect
_MERGE_ERRORS = (AssertionError, AttributeError, LookupError, TypeError, ValueError)
_MISMATCH = re.compile(
    r"Type mismatch \(<class '(.+?)'> vs\. <class '(.+?)'>\) "
    r"with values \((.*) vs\. (.*)\) for config key: (.+)",
    re.DOTALL,
)
# my_train, or my_train,my_val, in place of a list
_PLAIN_WORDS = re.compile(r"[\w./:-]+(,[\w./:-]+)*")
_KINDS = {
    "int": "a whole number",
    "float": "a number with a point",
    "str": "text",
    "bool": "True or False",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "CfgNode": "keys below it",
}


def flatten(cfg: detectron2.config.CfgNode, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield ``("MODEL.GN.NUM_GROUPS", 32)`` and so on for each leaf of ``cfg``."""
    for key, value in cfg.items():
        if isinstance(value, detectron2.config.CfgNode):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class CfgNode(detectron2.config.CfgNode):
    """Detectron2's CfgNode; keys that do not exist are refused with the one likely meant."""

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """Return the keys of a YAML file and its ``_BASE_`` files, as plain dicts.

        Raises:
            ConfigError, FileNotFoundError: see :func:`gn_det.config.inheritance.load_with_bases`.
        """
        if allow_unsafe:
            raise ConfigError(f"{filename}: gn_det reads YAML with the safe loader only.")
        loaded = load_with_bases(filename)
        version = loaded.tree.get("VERSION", 2)
        if not isinstance(version, int):
            where = loaded.find("VERSION")
            raise ConfigError(f"{where}: VERSION takes a whole number, but {version!r} was given.")
        return loaded.tree

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merge a YAML file and its ``_BASE_`` files, with the safe loader only.

        Args:
            cfg_filename: a path, ``gn_det://NAME.yaml``, or ``detectron2://PATH.yaml`` of
                Detectron2's model zoo. A ``_BASE_`` may be each of them, or a list; a relative
                path starts at the folder of the file that names it.
            allow_unsafe: there for Detectron2's callers; True is refused.

        Raises:
            FileNotFoundError: the file or a base does not exist.
            ConfigError: not YAML, a tag that is not plain data, a key given twice, bases in a
                circle, or a value of another type than the key's.
            UnknownKeyError: a key that does not exist; nothing is merged then.
        """
        filename = os.fspath(cfg_filename)
        if filename.endswith(".py"):
            raise ConfigError(
                f"{filename}: this is a Python config, which gn-det train alone runs; "
                "here a YAML is needed."
            )
        path = str(resolve(filename))
        try:
            # Detectron2's own: it loads by load_yaml_with_base and upgrades old versions
            super().merge_from_file(path, allow_unsafe=allow_unsafe)
        except UnknownKeyError as error:
            where = load_with_bases(path).find(error.key) or path
            raise UnknownKeyError(f"{where}: {error}", error.key) from None
        except ConfigError:
            raise  # of the loader, which knows the line
        except _MERGE_ERRORS as error:
            key, message = _explained(error)
            where = load_with_bases(path).find(key) or path
            raise ConfigError(f"{where}: {message}") from error

    def merge_from_other_cfg(self, cfg_other: detectron2.config.CfgNode) -> None:
        """Merge another config.

        Raises:
            UnknownKeyError: a key that does not exist, where new ones are not allowed; nothing is
                merged then.
            ValueError: a value of another type than the key's.
        """
        for name in _new_keys(self, cfg_other):
            raise _unknown(name, dict(flatten(self)))
        super().merge_from_other_cfg(cfg_other)

    def merge_from_list(self, cfg_list: list) -> None:
        """Merge ``[KEY, VALUE, KEY, VALUE, ...]``, as typed on a command line.

        Raises:
            ConfigError: an odd number of entries, an option such as ``--resume`` among the keys, or
                a value of another type than the key's.
            UnknownKeyError: a key that does not exist.
        """
        for name in cfg_list[0::2]:
            if str(name).startswith("--"):
                raise ConfigError(
                    f"{name} stands where a config key belongs. Options go before all KEY VALUE."
                )
        if len(cfg_list) % 2:
            raise ConfigError(
                f"Options come in pairs 'KEY VALUE', but {len(cfg_list)} words were given: "
                f"{' '.join(map(str, cfg_list))}"
            )
        known = dict(flatten(self))
        for name in cfg_list[0::2]:
            if name not in known:
                raise _unknown(name, known)
        try:
            super().merge_from_list(cfg_list)
        except _MERGE_ERRORS as error:
            raise ConfigError(f"Command line: {_explained(error)[1]}") from error


def _new_keys(
    mine: detectron2.config.CfgNode, other: detectron2.config.CfgNode, prefix: str = ""
) -> Iterator[str]:
    """Yield the keys of ``other`` that ``mine`` lacks and does not allow."""
    for key, value in other.items():
        name = f"{prefix}{key}"
        group = isinstance(value, detectron2.config.CfgNode)
        if group and isinstance(mine.get(key), detectron2.config.CfgNode):
            yield from _new_keys(mine[key], value, f"{name}.")
        elif key not in mine and not mine.is_new_allowed():
            # a leaf says more than its group
            yield next((leaf for leaf, _ in flatten(value, f"{name}.")), name) if group else name


def _unknown(name: str, known: dict[str, object]) -> UnknownKeyError:
    if name in known:  # "MODEL.GN.EPS: 1e-3" in a file
        nested = f"{name.replace('.', ': {')}: ...{'}' * name.count('.')}"
        return UnknownKeyError(f"{name} is written with dots; in a file, write {nested}", name)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        # the right name in the wrong place, such as MODEL.NUM_CLASSES
        close = [k for k in known if k.rpartition(".")[2] == name.rpartition(".")[2]][:3]
    meant = f" Was {' or '.join(close)} meant?" if close else ""
    return UnknownKeyError(f"There is no config key {name}.{meant}", name)


def _explained(error: Exception) -> tuple[str, str]:
    """Return the key that an error of yacs or Detectron2 is about, as far as known, and a sentence.

    yacs says it as "Type mismatch (<class 'int'> vs. <class 'str'>) with values (40000 vs. many)
    for config key: SOLVER.MAX_ITER".
    """
    found = _MISMATCH.search(str(error))
    if found is None:
        # Detectron2 compares versions before anything is merged
        return "VERSION", f"it cannot be merged: {error}"
    wanted, given, old, new, key = found.groups()
    plain = wanted in ("bool", "int", "float", "str") and old
    example = f", such as {old} (its value now)" if plain else ""
    text = f"{key} takes {_kind(wanted)}{example}, but {_kind(given)} was given: {_short(new)}."
    if wanted in ("list", "tuple") and _PLAIN_WORDS.fullmatch(new):
        items = tuple(new.split(",")) if given == "str" else f"({new},)"
        text += f' Write "{items}".'
    return key, text


def _kind(class_path: str) -> str:
    name = class_path.rpartition(".")[2]
    return _KINDS.get(name, f"a {name}")


def _short(text: str) -> str:
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= 60 else f"{text[:57]}..."


def get_cfg() -> CfgNode:
    """Return a fresh config: Detectron2's defaults and gn_det's keys."""
    cfg = CfgNode(detectron2.config.get_cfg())
    add_gn_config(cfg)
    return cfg
