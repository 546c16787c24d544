"""A copy of a config that notes which keys are read."""

import copy
from typing import Any

from detectron2.config import CfgNode

__all__ = ["RecordingCfg"]


class _Read(dict[str, Any]):
    """Key -> value, the key that was read last at the end."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Read":
        return self  # what reads a clone of the config reads the config


class RecordingCfg(CfgNode):
    """A copy of a config that notes in :attr:`read` which of its keys are read.

    What builds a model from it says so which keys the model depends on; where building fails, the
    keys that were read last are the likely cause.
    """

    @classmethod
    def copy_of(cls, cfg: CfgNode, changes: dict[str, Any] | None = None) -> "RecordingCfg":
        """Return a copy of ``cfg``, which itself stays as it is.

        Args:
            cfg: A config, frozen or not; so is the copy.
            changes: The values to set in the copy, by key, such as ``"MODEL.FPN.NORM"``.
        """
        root = cls._copy(cfg, "", _Read())
        for key, value in (changes or {}).items():
            *path, name = key.split(".")
            node = root
            for part in path:
                node = dict.__getitem__(node, part)
            dict.__setitem__(node, name, value)
        return root

    @classmethod
    def _copy(cls, cfg: CfgNode, prefix: str, read: _Read) -> "RecordingCfg":
        node = cls()
        node.__dict__.update(copy.deepcopy(cfg.__dict__))
        node.__dict__["_prefix"], node.__dict__["_read"] = prefix, read
        for key, value in cfg.items():
            is_node = isinstance(value, CfgNode)
            new = cls._copy(value, f"{prefix}{key}.", read) if is_node else copy.deepcopy(value)
            dict.__setitem__(node, key, new)
        return node

    @property
    def read(self) -> dict[str, Any]:
        """The keys that were read and their values, the last one at the end."""
        return self.__dict__["_read"]

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        if not isinstance(value, CfgNode):
            name = self.__dict__["_prefix"] + key
            self.read.pop(name, None)
            self.read[name] = value
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``, or ``default`` where there is no such key."""
        return self[key] if key in self else default  # noqa: SIM401  dict's would not note it
