"""A config whose errors name the key that was probably meant, and that runs no code from a YAML."""

import os
import re
from collections.abc import Iterator
from typing import Any

import detectron2.config

from gn_det.utils import closest, shorten

from .defaults import add_gn_config
from .errors import ConfigError, UnknownKeyError
from .inheritance import load_with_bases
from .paths import expand_home, is_handled, resolve

__all__ = ["CfgNode", "flatten", "get_cfg"]

# the errors of yacs, fvcore and Detectron2 for wrong values
_MERGE_ERRORS = (AssertionError, AttributeError, LookupError, TypeError, ValueError)
_MISMATCH = re.compile(
    r"Type mismatch \(<class '(.+?)'> vs\. <class '(.+?)'>\) "
    r"with values \((.*) vs\. (.*)\) for config key: (.+)",
    re.DOTALL,
)
# my_train, my_train,my_val or [0.5%, 99.5%], where a list is needed
_PLAIN_WORDS = re.compile(r"\[?[\w./:%-]+(, *[\w./:%-]+)*\]?")
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


def flatten(cfg: detectron2.config.CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each key, such as ``("MODEL.GN.NUM_GROUPS", 32)``.

    Args:
        cfg: The config.
        prefix: The first part of each name.
    """
    for key, value in cfg.items():
        if isinstance(value, detectron2.config.CfgNode):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class CfgNode(detectron2.config.CfgNode):
    """Detectron2's CfgNode, with an error for unknown keys that names the closest one."""

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """Return the keys of a YAML file and its ``_BASE_`` files, as plain dicts.

        Args:
            filename: The address of the file, see :meth:`merge_from_file`.
            allow_unsafe: An argument of Detectron2's callers. True is refused.

        Raises:
            ConfigError, FileNotFoundError: The file cannot be read, see
                :func:`gn_det.config.inheritance.load_with_bases`.
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
            cfg_filename: The address: a path, ``gn_det://NAME.yaml``, or ``detectron2://PATH.yaml``
                of Detectron2's model zoo. A ``_BASE_`` is such an address, or a list of them; its
                relative paths are relative to the folder of the file that has it.
            allow_unsafe: An argument of Detectron2's callers. True is refused.

        Raises:
            FileNotFoundError: The file or a base does not exist.
            ConfigError: The file is not YAML or has a tag that is not plain data, a key is given
                twice, bases form a circle, or a value has another type than the key.
            UnknownKeyError: A key does not exist. Nothing is merged then.
        """
        filename = os.fspath(cfg_filename)
        if filename.endswith(".py"):
            raise ConfigError(
                f"{filename}: this is a Python config, which only `gn-det train` runs. A YAML is "
                "needed here."
            )
        # the handler of an address is asked for its _BASE_ files, too
        path = filename if is_handled(filename) else str(resolve(filename))
        try:
            # Detectron2's method calls load_yaml_with_base and upgrades old versions
            super().merge_from_file(path, allow_unsafe=allow_unsafe)
        except UnknownKeyError as error:
            where = load_with_bases(path).find(error.key) or path
            raise UnknownKeyError(f"{where}: {error}", error.key) from None
        except ConfigError:
            raise  # from the loader, whose message has the line
        except _MERGE_ERRORS as error:
            key, message = _describe(error)
            where = load_with_bases(path).find(key) or path
            raise ConfigError(f"{where}: {message}") from error

    @classmethod
    def _decode_cfg_value(cls, value: Any) -> Any:
        # yacs asks this for each value of a file or a command line
        return expand_home(super()._decode_cfg_value(value))

    def merge_from_other_cfg(self, cfg_other: detectron2.config.CfgNode) -> None:
        """Merge another config.

        Args:
            cfg_other: The other config. Its values override those of this one.

        Raises:
            UnknownKeyError: A key does not exist, and new ones are not allowed. Nothing is merged
                then.
            ValueError: A value has another type than the key.
        """
        for name in _new_keys(self, cfg_other):
            raise _unknown(name, dict(flatten(self)))
        super().merge_from_other_cfg(cfg_other)

    def merge_from_list(self, cfg_list: list) -> None:
        """Merge ``[KEY, VALUE, KEY, VALUE, ...]``, as typed on a command line.

        Args:
            cfg_list: The keys and values in turn.

        Raises:
            ConfigError: The number of entries is odd, an option such as ``--resume`` stands among
                the keys, or a value has another type than the key.
            UnknownKeyError: A key does not exist.
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
        except ConfigError as error:
            raise ConfigError(f"Command line: {error}") from None
        except _MERGE_ERRORS as error:
            raise ConfigError(f"Command line: {_describe(error)[1]}") from error


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
            # the name of a leaf says more than that of its group
            yield next((leaf for leaf, _ in flatten(value, f"{name}.")), name) if group else name


def _unknown(name: str, known: dict[str, Any]) -> UnknownKeyError:
    if name in known:  # "MODEL.GN.EPS: 1e-3" in a file
        nested = f"{name.replace('.', ': {')}: ...{'}' * name.count('.')}"
        return UnknownKeyError(f"{name} is written with dots; in a file, write {nested}", name)
    close = closest(name, known)
    if not close:
        # the right name in the wrong place, such as MODEL.NUM_CLASSES
        close = [k for k in known if k.rpartition(".")[2] == name.rpartition(".")[2]][:3]
    meant = f" Was {' or '.join(close)} meant?" if close else ""
    return UnknownKeyError(f"There is no config key {name}.{meant}", name)


def _describe(error: Exception) -> tuple[str, str]:
    """Return the key that an error of yacs or Detectron2 is about, and a message for a person.

    The message of yacs is "Type mismatch (<class 'int'> vs. <class 'str'>) with values (40000 vs.
    many) for config key: SOLVER.MAX_ITER".
    """
    found = _MISMATCH.search(str(error))
    if found is None:
        # Detectron2 compares versions before it merges
        return "VERSION", f"it cannot be merged: {error}"
    wanted, given, old, new, key = found.groups()
    plain = wanted in ("bool", "int", "float", "str") and old
    example = f", such as {old} (its value now)" if plain else ""
    shown = shorten(new, 57)
    text = f"{key} takes {_kind(wanted)}{example}, but {_kind(given)} was given: {shown}."
    if wanted in ("list", "tuple") and _PLAIN_WORDS.fullmatch(new):
        items = tuple(re.split(", *", new.strip("[]"))) if given == "str" else f"({new},)"
        text += f' Write "{items}".'
    return key, text


def _kind(class_path: str) -> str:
    name = class_path.rpartition(".")[2]
    return _KINDS.get(name, f"a {name}")


def get_cfg() -> CfgNode:
    """Return a new config with Detectron2's and gn_det's keys and defaults."""
    cfg = CfgNode(detectron2.config.get_cfg())
    add_gn_config(cfg)
    return cfg
