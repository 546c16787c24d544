"""Look at the model that a config builds: its norms, what is frozen, whose parts they are.

The model is built on the meta device, where tensors have shapes and no memory: 0.1 s for R50. What
depends on a key is seen by building once more with another value of it.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from torch import nn

from gn_det.config.recording_cfg import RecordingCfg

from .norms import has_statistics, is_norm

__all__ = ["BuildError", "ModelLook", "NormLayer", "look_at", "meta_backbone", "norm_layers"]

# errors that are the same on each device
_OF_VALUES = (ValueError, KeyError, AssertionError)


@dataclass(frozen=True)
class NormLayer:
    """A norm of a model.

    Attributes:
        name: Its place in the model, such as ``"backbone.fpn_lateral2.norm"``.
        kind: Its class.
        channels: The number of its channels.
        groups: The number of its groups; None for a norm without groups.
        eps: The number that it adds to the variance.
        has_statistics: Whether a forward pass in training updates its running statistics.
        owner: The class of the innermost module around it that is no plain layer or container,
            such as Detectron2's ``RetinaNetHead``.
        in_backbone: Whether it is a part of a backbone, which one registered function has built.
    """

    name: str
    kind: type[nn.Module]
    channels: int
    groups: int | None
    eps: float
    has_statistics: bool
    owner: type[nn.Module]
    in_backbone: bool


@dataclass
class ModelLook:
    """The model of a config, and what can be seen of it.

    Attributes:
        cfg: The config that it is built from.
        model: The model, on the meta device. On the CPU where it cannot be built there.
        read: The keys that building has read and their values, in the order of the last reading.
        norms: The norms by name.
        frozen: The names of the parameters that are not trained.
    """

    cfg: CfgNode
    model: nn.Module
    read: dict[str, Any]
    _others: dict[str, "ModelLook | None"] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.norms = {layer.name: layer for layer in norm_layers(self.model)}
        self.frozen = {
            name for name, tensor in self.model.named_parameters() if not tensor.requires_grad
        }

    def with_changes(self, changes: dict[str, Any]) -> "ModelLook | None":
        """Return the look at the model with other values of keys; None if it cannot be built.

        Args:
            changes: The values by key, such as ``{"MODEL.FPN.NORM": ""}``.
        """
        known = repr(sorted(changes.items()))
        if known not in self._others:
            try:
                self._others[known] = look_at(self.cfg, changes)
            except BuildError:
                self._others[known] = None
        return self._others[known]

    def norm_keys(self) -> list[str]:
        """Return the keys called ``NORM`` that building has read, a user's own too."""
        return [key for key in self.read if key.endswith((".NORM", "_NORM"))]

    def norms_of(self, key: str) -> set[str]:
        """Return the names of the norms that depend on a key: with another value they differ.

        Args:
            key: One of :meth:`norm_keys`.
        """
        for value in ("", "BN", "LN"):
            other = self.with_changes({key: value}) if value != self.read[key] else None
            if other is not None:
                return {n for n, norm in self.norms.items() if other.norms.get(n) != norm}
        return set()

    def keys_of(self, names: Iterable[str], values: Iterable[str]) -> dict[str, set[str]]:
        """Return which of some norms each key makes, as ``key -> names``.

        Args:
            names: The names of the norms.
            values: The values that such a key has; others are not asked for.
        """
        left, found = set(names), {}
        for key in self.norm_keys():
            if left and self.read[key] in values and (made := left & self.norms_of(key)):
                found[key] = made
                left -= made
        return found


class BuildError(Exception):
    """The model of a config cannot be built.

    Attributes:
        cause: What building has raised.
        read: The keys that were read before and their values, the last one at the end.
    """

    def __init__(self, cause: Exception, read: dict[str, Any]):
        super().__init__(str(cause))
        self.cause, self.read = cause, read


def look_at(cfg: CfgNode, changes: dict[str, Any] | None = None) -> ModelLook:
    """Build the model of a config on the meta device and look at it.

    A model that the meta device cannot build, since its code looks at values or loads a file, is
    built on the CPU. The config and the global random states stay as they are.

    Args:
        cfg: A finished config with gn_det's keys.
        changes: Other values of keys, such as ``{"MODEL.FPN.NORM": ""}``.

    Raises:
        BuildError: The model cannot be built.
    """
    recording = RecordingCfg.copy_of(cfg, {**(changes or {}), "MODEL.DEVICE": "cpu"})
    read = recording.read
    try:
        model = _build(lambda: META_ARCH_REGISTRY.get(recording.MODEL.META_ARCHITECTURE)(recording))
    except Exception as error:  # noqa: BLE001  a user's code may raise anything
        raise BuildError(error, dict(read)) from error
    return ModelLook(RecordingCfg.copy_of(cfg, changes), model, dict(read))


def meta_backbone(cfg: CfgNode) -> nn.Module | None:
    """Return the backbone of a config, built as by :func:`look_at`; None if it cannot be built.

    Args:
        cfg: A config with gn_det's keys; those of the rest of the model are not read.
    """
    try:
        return _build(lambda: build_backbone(RecordingCfg.copy_of(cfg)))
    except Exception:  # noqa: BLE001  a training reports the reason
        return None


def _build(make: Callable[[], nn.Module]) -> nn.Module:
    with _same_random_states():
        try:
            with torch.device("meta"):
                return make()
        except _OF_VALUES:
            raise
        except Exception:  # noqa: BLE001  a user's code may need values
            return make()


@contextmanager
def _same_random_states() -> Iterator[None]:
    """Leave the global random states as they were, whatever the code inside draws."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def norm_layers(model: nn.Module) -> Iterator[NormLayer]:
    """Yield the norms of a model, in its order.

    Args:
        model: A model, on any device.
    """
    modules = dict(model.named_modules())
    for name, layer in modules.items():
        if is_norm(layer):
            around = [modules[outer] for outer in _outer_names(name)]
            yield NormLayer(
                name,
                type(layer),
                _channels(layer),
                getattr(layer, "num_groups", None),
                getattr(layer, "eps", 0.0),
                has_statistics(layer),
                next((type(m) for m in around if not _is_plain(m)), type(model)),
                any(isinstance(m, Backbone) for m in around),
            )


def _outer_names(name: str) -> Iterator[str]:
    """Yield the names of the modules around a layer, the innermost first."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _is_plain(module: nn.Module) -> bool:
    return type(module).__module__.startswith(("torch.", "detectron2.layers."))


def _channels(norm: nn.Module) -> int:
    for attribute in ("num_channels", "num_features"):
        if hasattr(norm, attribute):
            return int(getattr(norm, attribute))
    weight = getattr(norm, "weight", None)
    return weight.shape[0] if isinstance(weight, torch.Tensor) else 0
