"""Weights in Detectron2's names, and what is known of how they were trained."""

import dataclasses
import re
from dataclasses import dataclass, field

import torch

from gn_det.modeling import PretrainSpec
from gn_det.modeling.network import resnet_depth

from .errors import WeightsError

__all__ = ["Converted", "metadata_from_dict", "metadata_to_dict", "resnet_depth", "resnet_norm"]


@dataclass
class Converted:
    """A file's weights in Detectron2's names.

    Attributes:
        source: where the file's own names are from, such as "timm".
        state: name -> tensor. A name may lack the modules in front of it, as in
            ``res2.0.conv1.weight``: it belongs to the parameter that ends with it.
        names: name in ``state`` -> name in the file; those that are the same may be left out.
        dropped: name in the file -> why it is of no use for a detector.
        known: how the network was trained, as far as the file or its source says.
        suffixes: whether names may lack the modules in front.
    """

    source: str
    state: dict[str, torch.Tensor]
    names: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    known: PretrainSpec = field(default_factory=PretrainSpec)
    suffixes: bool = True

    def name_in_file(self, name: str) -> str:
        """Return what the file calls ``name``, a key of ``state``."""
        return self.names.get(name, name)


def resnet_norm(names: list[str]) -> str | None:
    """Return "BN" where norms have statistics, "GN" where they have none; None without norms."""
    norms = [n for n in names if re.search(r"(^|\.)(stem|res[2-5]|vgg[1-5])\..*\.norm\.", n)]
    if any(n.endswith(".running_mean") for n in norms):
        return "BN"
    return "GN" if norms else None


def metadata_to_dict(known: PretrainSpec, source: str) -> dict:
    """Return what a converted file says of itself: numbers, strings and lists alone."""
    values = dataclasses.asdict(known).items()
    return {"source": source, **{k: list(v) if isinstance(v, tuple) else v for k, v in values}}


def metadata_from_dict(values: object) -> PretrainSpec:
    """Read :func:`metadata_to_dict`'s dict back. Keys that are not known are left alone.

    Raises:
        WeightsError: not a dict, or a value of another kind.
    """
    kinds = {
        "depth": int,
        "norm": str,
        "stride_in_1x1": bool,
        "pixel_mean": _three_numbers,
        "pixel_std": _three_numbers,
        "input_format": str,
        "num_groups": int,
        "weight_standardization": bool,
        "network": str,
        "channels_per_group": int,
    }
    if not isinstance(values, dict):
        raise WeightsError(f"Its entry 'gn_det' is a {type(values).__name__}, not a dict.")
    read = {}
    for key, kind in kinds.items():
        value = values.get(key)
        fits = type(value) is kind if isinstance(kind, type) else value is None or kind(value)
        if value is not None and not fits:
            raise WeightsError(f"Its entry 'gn_det' has the {key} {value!r}, which cannot be.")
        read[key] = tuple(value) if isinstance(value, list) else value
    return PretrainSpec(**read)


def _three_numbers(value: object) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(type(number) in (int, float) for number in value)
    )
