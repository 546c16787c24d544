"""Weights in Detectron2's names, and what a file says of how they were trained."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.config import CfgNode

from gn_det.config.values import window_problem
from gn_det.modeling import PretrainSpec, pretrain_spec_from_cfg

from .errors import WeightsError

__all__ = [
    "Converted",
    "PretrainMetadata",
    "metadata_from_dict",
    "metadata_to_dict",
    "norm_of_names",
    "preprocessing_of_record",
    "unwrapped",
]

# what torch.compile, FSDP and activation checkpointing put between the names of modules
_WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")


@dataclass
class Converted:
    """The weights of a file, in Detectron2's names.

    Attributes:
        source: The project whose names the file has, such as "timm".
        state: The tensors by name. A name may lack the modules in front of it, as in
            ``res2.0.conv1.weight``: the tensor belongs to the parameter that ends with it.
        names: The names in the file, by the name in ``state``. Names that are the same may be
            missing.
        dropped: The reasons why entries of the file are of no use for a detector, by name.
        known: How the network was trained, as far as the file or its source says.
        class_names: The names of the classes, by the entry of the file that has them.
        suffixes: Whether names in ``state`` may lack the modules in front.
    """

    source: str
    state: dict[str, torch.Tensor]
    names: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    known: PretrainSpec = field(default_factory=PretrainSpec)
    class_names: dict[str, list[str]] = field(default_factory=dict)
    suffixes: bool = True

    def name_in_file(self, name: str) -> str:
        """Return what the file calls ``name``, a key of ``state``."""
        return self.names.get(name, name)


class PretrainMetadata:
    """What a checkpoint of pre-training says of itself: the network, and how it is fed.

    A checkpointer saves it as ``gn_det``, the entry that loading looks for::

        Checkpointer(model, folder, gn_det=PretrainMetadata(cfg)).save("model_final")

    Args:
        cfg: The config that the network is built from and trained with.
    """

    def __init__(self, cfg: CfgNode):
        self._values = metadata_to_dict(pretrain_spec_from_cfg(cfg), "gn_det")

    def state_dict(self) -> dict[str, Any]:
        """Return numbers, strings and lists."""
        return self._values

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the checkpointer has compared it with the config already."""


def norm_of_names(names: list[str]) -> str | None:
    """Return "BN" where norms have statistics, "GN" where they have none; None without norms.

    Args:
        names: The names of parameters and buffers.
    """
    norms = [n for n in names if re.search(r"(^|\.)(stem|res[2-5]|vgg[1-5])\..*\.norm\.", n)]
    if any(n.endswith(".running_mean") for n in norms):
        return "BN"
    return "GN" if norms else None


def unwrapped(name: str) -> str:
    """Return the name of a parameter without what torch.compile and other wrappers add to it.

    Args:
        name: The name, such as ``_orig_mod.backbone.stem.conv1.weight``.
    """
    return _WRAPPERS.sub("", name).lstrip(".")


def metadata_to_dict(known: PretrainSpec, source: str) -> dict[str, Any]:
    """Return what a converted file says of itself: numbers, strings and lists.

    Args:
        known: How the network was trained.
        source: The project that the weights are from.
    """
    values = dataclasses.asdict(known).items()
    return {"source": source, **{k: list(v) if isinstance(v, tuple) else v for k, v in values}}


def metadata_from_dict(values: object) -> PretrainSpec:
    """Read :func:`metadata_to_dict`'s dict back. Keys that are not known are ignored.

    Raises:
        WeightsError: ``values`` is no dict, or has a value of another type.
    """
    if not isinstance(values, dict):
        raise WeightsError(f"Its entry 'gn_det' is a {type(values).__name__}, not a dict.")
    read: dict[str, Any] = {}
    for key, fits in _FITS.items():
        value = values.get(key)
        if value is not None and not fits(value):
            raise WeightsError(f"Its entry 'gn_det' has the {key} {value!r}, which cannot be.")
        read[key] = tuple(value) if isinstance(value, list) else value
    return PretrainSpec(**read)


def preprocessing_of_record(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the record of a run's config says of its images, by attribute of PretrainSpec.

    Args:
        config: The entry "config" of a checkpoint, see :class:`gn_det.engine.RunRecord`.
    """
    found = {attr: config.get(key) for key, attr in _RECORDED.items() if key in config}
    return {
        attr: tuple(value) if isinstance(value, list) else value
        for attr, value in found.items()
        if value is not None and _FITS[attr](value)
    }


# the keys of a YAML and of a Python config
_RECORDED = {
    "MODEL.PIXEL_MEAN": "pixel_mean",
    "MODEL.PIXEL_STD": "pixel_std",
    "INPUT.FORMAT": "input_format",
    "INPUT.WINDOW": "window",
    "model.pixel_mean": "pixel_mean",
    "model.pixel_std": "pixel_std",
    "model.input_format": "input_format",
    "dataloader.train.mapper.window": "window",
}


def _is_int(value: object) -> bool:
    return type(value) is int  # a bool is an int, too


def _is_bool(value: object) -> bool:
    return type(value) is bool


def _is_str(value: object) -> bool:
    return type(value) is str


def _is_channels(value: object) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) in (1, 3)
        and all(type(number) in (int, float) for number in value)
    )


_FITS: dict[str, Callable[[object], bool]] = {
    "depth": _is_int,
    "norm": _is_str,
    "stride_in_1x1": _is_bool,
    "pixel_mean": _is_channels,
    "pixel_std": _is_channels,
    "input_format": _is_str,
    "num_groups": _is_int,
    "weight_standardization": _is_bool,
    "network": _is_str,
    "channels_per_group": _is_int,
    "window": lambda value: window_problem(value) is None,
}
