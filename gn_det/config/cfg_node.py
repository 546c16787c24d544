"""A config whose errors name the key that was probably meant, and that runs no code from a YAML."""

import os
from functools import reduce
from operator import getitem
from typing import Any

import detectron2.config
from detectron2.config import get_cfg as get_detectron2_cfg
from yacs.config import CfgNode as Node

from .defaults import add_gn_config
from .errors import ConfigError
from .inheritance import load_with_bases
from .merge import as_type_of, assignments, flatten, unknown_key
from .paths import expand_home, is_handled, resolve

__all__ = ["CfgNode", "get_cfg", "given_keys"]

GIVEN = "__given__"  # beside yacs' own entries of a node's __dict__


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
        if not isinstance(version, int) or version < 0:
            where = loaded.find("VERSION")
            raise ConfigError(f"{where}: VERSION takes a whole number, but {version!r} was given.")
        for group in ("MODEL", "TEST"):  # below which Detectron2 looks for keys of old versions
            if not isinstance(loaded.tree.get(group, {}), dict):
                raise ConfigError(f"{loaded.find(group)}: {group} takes keys below it.")
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
            UnknownKeyError: A key does not exist, or was renamed. Nothing is merged then, nor where
                a value has another type.
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
        except ConfigError as error:
            if not error.key:
                raise  # from the loader, whose message has the line
            where = load_with_bases(path).find(error.key) or path
            raise type(error)(f"{where}: {error}", error.key) from None
        except (AssertionError, AttributeError, LookupError) as error:
            # Detectron2 compares and converts versions
            where = load_with_bases(path).find("VERSION") or path
            raise ConfigError(f"{where}: VERSION: it cannot be merged: {error}") from error
        where_from, real = load_with_bases(path).where, str(resolve(path))
        own = [".".join(key) for key, at in where_from.items() if at.rpartition(":")[0] == real]
        # in the config.yaml of a run, nobody chose each key
        if 2 * len(own) < len(dict(flatten(self))):
            self.__dict__[GIVEN] = {*given_keys(self), *own}

    @classmethod
    def _decode_cfg_value(cls, value: Any) -> Any:
        # yacs asks this for each value of a file or a command line
        return expand_home(super()._decode_cfg_value(value))

    def merge_from_other_cfg(self, cfg_other: Node) -> None:
        """Merge another config.

        Args:
            cfg_other: The other config, of any class of CfgNode, or a dict. Its values override
                those of this one.

        Raises:
            UnknownKeyError: A key does not exist, and new ones are not allowed.
            ConfigError: A value has another type than the key. Nothing is merged then.
        """
        for node, key, value in list(assignments(cfg_other, self, self)):
            node[key] = value

    def merge_from_list(self, cfg_list: list) -> None:
        """Merge ``[KEY, VALUE, KEY, VALUE, ...]``, as typed on a command line.

        Args:
            cfg_list: The keys and values in turn.

        Raises:
            ConfigError: The number of entries is odd, an option such as ``--resume`` stands among
                the keys, or a value has another type than the key.
            UnknownKeyError: A key does not exist, or was renamed. Nothing is merged then, nor where
                a value has another type.
        """
        for name in cfg_list[0::2]:
            if str(name).startswith("--"):
                raise ConfigError(
                    f"{name} stands where a config key belongs. Options go before all KEY VALUE."
                )
            if "=" in str(name):
                raise ConfigError(
                    f"{name}: with a YAML config, key and value are two words: "
                    f"{str(name).replace('=', ' ', 1)}"
                )
        if len(cfg_list) % 2:
            raise ConfigError(
                f"Options come in pairs 'KEY VALUE', but {len(cfg_list)} words were given: "
                f"{' '.join(map(str, cfg_list))}"
            )
        known, new = dict(flatten(self)), {}
        for name, given in zip(cfg_list[0::2], cfg_list[1::2]):
            if self.key_is_deprecated(name):
                continue
            if name not in known:
                raise unknown_key(name, self)
            try:
                new[name] = as_type_of(known[name], self._decode_cfg_value(given), name)
            except ConfigError as error:
                raise ConfigError(f"Command line: {error}", name) from None
        for name, value in new.items():
            *groups, key = name.split(".")
            reduce(getitem, groups, self)[key] = value
        self.__dict__[GIVEN] = {*given_keys(self), *new}


def given_keys(cfg: Node) -> set[str]:
    """Return the keys that a command line or a file sets, without those of its ``_BASE_`` files.

    Args:
        cfg: A config. One that is not of :func:`get_cfg` knows none.
    """
    return set(cfg.__dict__.get(GIVEN, ()))


def get_cfg() -> CfgNode:
    """Return a new config with Detectron2's and gn_det's keys and defaults."""
    cfg = CfgNode(get_detectron2_cfg())
    add_gn_config(cfg)
    return cfg
