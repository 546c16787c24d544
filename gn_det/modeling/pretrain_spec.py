"""How a backbone was pre-trained: the specs of published weights, and of what a config trains."""

import dataclasses
from dataclasses import dataclass

from detectron2.config import CfgNode

from .inspect import meta_backbone
from .network import network_of_cfg
from .norms import BN_NAMES

__all__ = [
    "BGR",
    "PUBLISHED_SPECS",
    "RGB_STD",
    "PretrainSpec",
    "find_published_spec",
    "pretrain_spec_from_cfg",
]

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class PretrainSpec:
    """How a network was pre-trained, and so how it has to be built and fed.

    Attributes (None where it is not known):
        depth: The depth of the ResNet or VGG.
        norm: The name of the norm in :data:`~gn_det.modeling.norms.NORMS`, or "" for none. "BN" is
            with statistics; "FrozenBN" is BN folded into scale and offset, without them.
        stride_in_1x1: Whether a bottleneck has its stride on the first 1x1 convolution.
        pixel_mean: The mean of each channel, in the order of ``input_format``.
        pixel_std: What each channel is divided by.
        input_format: The order of the channels, "BGR" or "RGB".
        num_groups: The number of groups of GN.
        weight_standardization: Whether the convolutions are standardized.
        network: The kind of network: "ResNet", "VGG" or, for clips, "3D ResNet".
        channels_per_group: The channels per group of GN, where they are the same in every layer.
        window: The value of ``INPUT.WINDOW``, where there was one.
    """

    depth: int | None = None
    norm: str | None = None
    stride_in_1x1: bool | None = None
    pixel_mean: Channels | None = None
    pixel_std: Channels | None = None
    input_format: str | None = None
    num_groups: int | None = None
    weight_standardization: bool | None = None
    network: str | None = None
    channels_per_group: int | None = None
    window: tuple[float | str, ...] | None = None


def _published(
    depth: int, norm: str, stride_in_1x1: bool, pixels: tuple[Channels, Channels, str]
) -> PretrainSpec:
    groups = 32 if norm == "GN" else None
    return PretrainSpec(depth, norm, stride_in_1x1, *pixels, groups, False, "ResNet")


BGR = ((103.530, 116.280, 123.675), (1.0, 1.0, 1.0), "BGR")
BGR_STD = ((103.530, 116.280, 123.675), (57.375, 57.120, 58.395), "BGR")
RGB_STD = ((123.675, 116.280, 103.530), (58.395, 57.120, 57.375), "RGB")

# The ending of MODEL.WEIGHTS, without ".pkl" -> what it is. From Detectron's projects/GN,
# Detectron2's MODEL_ZOO.md ("ImageNet Pretrained Models") and its ModelCatalog.
PUBLISHED_SPECS = {
    "R-50-GN": _published(50, "GN", False, BGR),
    "R-101-GN": _published(101, "GN", False, BGR),
    "MSRA/R-50": _published(50, "BN", True, BGR),
    "MSRA/R-101": _published(101, "BN", True, BGR),
    "FAIR/X-101-32x8d": _published(101, "BN", False, BGR_STD),
    "torchvision/R-50": _published(50, "BN", False, RGB_STD),
}


def find_published_spec(path: str) -> tuple[str, PretrainSpec] | None:
    """Return the entry of :data:`PUBLISHED_SPECS` that a path ends with; None where none does.

    Args:
        path: The value of ``MODEL.WEIGHTS``.
    """
    stem = path.removesuffix(".pkl").removesuffix(".pth")
    for name, spec in PUBLISHED_SPECS.items():
        if stem == name or stem.endswith("/" + name):
            return name, spec
    return None


def pretrain_spec_from_cfg(cfg: CfgNode) -> PretrainSpec:
    """Return what weights that are trained in the network of a config have to say of themselves.

    Args:
        cfg: A config with gn_det's keys. Where its backbone is no ResNet or VGG, or cannot be
            built, the preprocessing alone is known.
    """
    network = network_of_cfg(meta_backbone(cfg), cfg)
    spec = PretrainSpec(
        pixel_mean=tuple(cfg.MODEL.PIXEL_MEAN),
        pixel_std=tuple(cfg.MODEL.PIXEL_STD),
        input_format=cfg.INPUT.FORMAT,
        window=tuple(cfg.INPUT.WINDOW) or None,
    )
    if network is None:
        return spec
    return dataclasses.replace(
        spec,
        network=network.kind,
        depth=network.depth,
        norm="BN" if network.norm in BN_NAMES else network.norm,  # the same four tensors
        stride_in_1x1=network.stride_in_1x1,
        weight_standardization=network.weight_standardization,
        num_groups=network.groups.get("num_groups"),
        channels_per_group=network.groups.get("channels_per_group"),
    )
