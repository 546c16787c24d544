"""A config whose errors say which key was likely meant, and which never runs code from a YAML."""

import difflib
from collections.abc import Iterator

import detectron2.config
import yaml

from .defaults import add_gn_config
from .errors import ConfigError, UnknownKeyError

__all__ = ["CfgNode", "flatten", "get_cfg"]


def flatten(cfg: detectron2.config.CfgNode, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield ``("MODEL.GN.NUM_GROUPS", 32)`` and so on for each leaf of ``cfg``."""
    for key, value in cfg.items():
        if isinstance(value, detectron2.config.CfgNode):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class CfgNode(detectron2.config.CfgNode):
    """Detectron2's CfgNode; keys that do not exist are refused with the one likely meant."""

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merge a YAML file and its ``_BASE_`` files, with the safe loader only.

        Raises:
            FileNotFoundError: the file or a base does not exist.
            ConfigError: not YAML, bases in a circle, or a value of another type than the key's.
            UnknownKeyError: a key that does not exist.
        """
        filename = str(cfg_filename)
        if allow_unsafe:
            raise ConfigError(f"{filename}: gn_det reads YAML with the safe loader only.")
        if not detectron2.utils.file_io.PathManager.isfile(filename):
            raise FileNotFoundError(f"Config file '{filename}' does not exist.")
        try:
            super().merge_from_file(filename, allow_unsafe=False)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{filename}: its _BASE_ file '{error.filename}' does not exist."
            ) from None
        except RecursionError:
            raise ConfigError(f"{filename}: its _BASE_ files form a circle.") from None
        except UnknownKeyError as error:
            raise UnknownKeyError(f"{filename}: {error}") from None
        except (yaml.YAMLError, AssertionError, ValueError) as error:
            raise ConfigError(f"{filename}: {error}") from error
        except (TypeError, AttributeError) as error:
            raise ConfigError(
                f"{filename}: it or a _BASE_ of it holds no 'KEY: value' lines ({error})."
            ) from error

    def merge_from_other_cfg(self, cfg_other: detectron2.config.CfgNode) -> None:
        """Merge another config.

        Raises:
            UnknownKeyError: a key that does not exist, where new ones are not allowed; nothing is
                merged then.
            ValueError: a value of another type than the key's.
        """
        for name in _new_keys(self, cfg_other):
            raise UnknownKeyError(_unknown(name, dict(flatten(self))))
        super().merge_from_other_cfg(cfg_other)

    def merge_from_list(self, cfg_list: list) -> None:
        """Merge ``[KEY, VALUE, KEY, VALUE, ...]``, as typed on a command line.

        Raises:
            ConfigError: an odd number of entries, or a value of another type than the key's.
            UnknownKeyError: a key that does not exist.
        """
        if len(cfg_list) % 2:
            raise ConfigError(
                f"Options come in pairs 'KEY VALUE', but {len(cfg_list)} words were given: "
                f"{' '.join(map(str, cfg_list))}"
            )
        known = dict(flatten(self))
        for name in cfg_list[0::2]:
            if name not in known:
                raise UnknownKeyError(_unknown(name, known))
        try:
            super().merge_from_list(cfg_list)
        except (AssertionError, ValueError) as error:
            raise ConfigError(f"Command line: {error}") from error


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


def _unknown(name: str, known: dict[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        # the right name in the wrong place, such as MODEL.NUM_CLASSES
        close = [k for k in known if k.rpartition(".")[2] == name.rpartition(".")[2]][:3]
    meant = f" Was {' or '.join(close)} meant?" if close else ""
    return f"There is no config key {name}.{meant}"


def get_cfg() -> CfgNode:
    """Return a fresh config: Detectron2's defaults and gn_det's keys."""
    cfg = CfgNode(detectron2.config.get_cfg())
    add_gn_config(cfg)
    return cfg
