"""How a backbone was pre-trained, and whether a config's model fits weights that were.

What a model is, is asked of the model: depth, norm and strides of its blocks.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BottleneckBlock, DeformBottleneckBlock, ResNet
from torch import nn

from gn_det.config import Problem

from .inspect import meta_backbone
from .norms import NORMS, groups_of, is_norm, name_of_norms
from .resnet import NUM_BLOCKS
from .vgg import NUM_CONVS, VGG
from .weight_standardization import StandardizedConv2d

__all__ = [
    "PUBLISHED_SPECS",
    "Network",
    "PretrainSpec",
    "blocks_of",
    "check_weights",
    "find_published_spec",
    "misfits",
    "network_of",
    "network_of_cfg",
    "pretrain_spec_from_cfg",
    "resnet_depth",
]

Channels = tuple[float, float, float]

BN_NAMES = ("BN", "SyncBN", "FrozenBN")
# the keys below MODEL that Detectron2 and gn_det have for a network
KEYS_OF = {"ResNet": "RESNETS", "3D ResNet": "RESNETS", "VGG": "VGG"}
# Mean or std of a channel: further apart than this is another preprocessing, closer than that is
# the same. Between them lie Detectron's two means for one data set (102.98 and 103.53).
_OTHER, _SAME = 1.0, 0.01
_BLOCK = re.compile(r"(?:^|\.)res([2-5])\.(\d+)\.conv(\d)\.weight$")


@dataclass(frozen=True)
class PretrainSpec:
    """How a network was pre-trained, and so how it has to be built and fed.

    Attributes (None where it is not known):
        depth: The depth of the ResNet or VGG.
        norm: The norm: "GN", "LN", "IN", "BN", "FrozenBN" (BN folded into scale and offset, without
            statistics), or "" for none.
        stride_in_1x1: Whether a bottleneck has its stride on the first 1x1 convolution.
        pixel_mean: The mean of each channel, in the order of ``input_format``.
        pixel_std: What each channel is divided by.
        input_format: The order of the channels, "BGR" or "RGB".
        num_groups: The number of groups of GN.
        weight_standardization: Whether the convolutions are standardized.
        network: The kind of network: "ResNet", "VGG" or, for clips, "3D ResNet".
        channels_per_group: The channels per group of GN, where they are the same in every layer.
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


@dataclass(frozen=True)
class Network:
    """What a model shows of the network in it.

    Attributes:
        kind: "ResNet", "VGG" or "3D ResNet".
        depth: The depth; None where several depths have the stages that there are.
        norm: The name of the norm, "" for none.
        groups: The groups of the norm, as ``num_groups`` or ``channels_per_group``.
        stride_in_1x1: Whether bottlenecks have their stride on the first 1x1 convolution; None
            where there is no such block.
        weight_standardization: Whether convolutions are standardized.
    """

    kind: str
    depth: int | None
    norm: str
    groups: dict[str, int]
    stride_in_1x1: bool | None
    weight_standardization: bool


def network_of(model: nn.Module) -> Network | None:
    """Return what the ResNet or VGG in a model is; None for a model without one.

    Args:
        model: A model or backbone, on any device. The res5 of a C4 model may be in its RoI heads.
    """
    blocks = list(blocks_of(model).values())
    layers = [layer for block in blocks for layer in block.modules()]
    norms = [layer for layer in layers if is_norm(layer)]
    if any(isinstance(module, VGG) for module in model.modules()):
        stages = [len(list(stage.children())) for stage in blocks]
        kind, depth = "VGG", _depth(NUM_CONVS, stages)
    elif any(isinstance(module, ResNet) for module in model.modules()):
        in_3d = any(isinstance(layer, nn.Conv3d) for layer in layers)
        kind = "3D ResNet" if in_3d else "ResNet"
        depth = resnet_depth([name for name, _ in model.named_parameters()], whole=False)
    else:
        return None
    name = name_of_norms(norms)
    return Network(
        kind,
        depth,
        name,
        _groups(name, norms),
        _stride_in_1x1(blocks),
        any(isinstance(layer, StandardizedConv2d) for layer in layers),
    )


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the stem and blocks of a ResNet, or the stages of a VGG, by their names in a model.

    Args:
        model: A model or backbone, on any device.
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, VGG):
            prefix = f"{name}." if name else ""
            found |= {prefix + stage: getattr(module, stage) for stage in module.stage_names}
        elif isinstance(module, CNNBlockBase):
            found[name] = module
    return found


def resnet_depth(names: Iterable[str], *, whole: bool = True) -> int | None:
    """Return the depth of the ResNet with some parameters; None for one that has no number.

    Args:
        names: The names of the parameters, such as ``backbone.res2.0.conv1.weight``.
        whole: Whether all stages have to be there; otherwise the last ones may be missing.
    """
    blocks, convs = [0, 0, 0, 0], 0
    for name in names:
        found = _BLOCK.search(name)
        if found:
            stage, block, conv = map(int, found.groups())
            blocks[stage - 2] = max(blocks[stage - 2], block + 1)
            convs = max(convs, conv)
    stages = blocks if whole else [count for count in blocks if count]
    return _depth({d: n for d, n in NUM_BLOCKS.items() if (2 if d < 50 else 3) == convs}, stages)


def _depth(known: Mapping[int, Sequence[int]], stages: list[int]) -> int | None:
    depths = [d for d, counts in known.items() if list(counts[: len(stages)]) == stages]
    return depths[0] if len(depths) == 1 else None


def _groups(name: str, norms: list[nn.Module]) -> dict[str, int]:
    if name not in NORMS or NORMS[name].groups is None:
        return {}
    groups = [groups_of(norm) for norm in norms if not isinstance(norm, FrozenBatchNorm2d)]
    keys = ["num_groups", "channels_per_group"]
    for key in reversed(keys) if name == "IN" else keys:
        if len({found[key] for found in groups}) == 1:
            return {key: groups[0][key]}
    return {}


def _stride_in_1x1(blocks: list[nn.Module]) -> bool | None:
    for block in blocks:
        if isinstance(block, (BottleneckBlock, DeformBottleneckBlock)) and block.stride > 1:
            return block.conv1.stride != (1, 1)
    return None


def network_of_cfg(model: nn.Module | None, cfg: CfgNode) -> Network | None:
    """Return :func:`network_of` in the words of a config: GN with one group is not called LN.

    Args:
        model: The model or backbone of ``cfg``; None where it cannot be built.
        cfg: A config with gn_det's keys.
    """
    network = network_of(model) if model is not None else None
    if network and network.norm in NORMS and NORMS[network.norm].groups:
        named = cfg.MODEL[KEYS_OF[network.kind]].NORM
        return dataclasses.replace(network, norm="GN" if named == "GN" else network.norm)
    return network


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
    )
    if network is None:
        return spec
    return dataclasses.replace(
        spec,
        network=network.kind,
        depth=network.depth,
        norm="BN" if network.norm in BN_NAMES else network.norm,  # with statistics, all of them
        stride_in_1x1=network.stride_in_1x1,
        weight_standardization=network.weight_standardization,
        num_groups=network.groups.get("num_groups"),
        channels_per_group=network.groups.get("channels_per_group"),
    )


def check_weights(
    cfg: CfgNode, spec: PretrainSpec, weights: str = "", model: nn.Module | None = None
) -> list[Problem]:
    """Return what does not fit between a config's model and weights.

    Args:
        cfg: A config with gn_det's keys.
        spec: What is known of the weights; what is None is not checked.
        weights: The name of the weights in messages, in place of ``MODEL.WEIGHTS ...``.
        model: The model of ``cfg``; None builds its backbone. Where it has no ResNet or VGG, or
            cannot be built, nothing is checked.
    """
    network = network_of_cfg(meta_backbone(cfg) if model is None else model, cfg)
    if network is None:
        return []
    return list(misfits(network, cfg, spec, weights or f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS}"))


def misfits(network: Network, cfg: CfgNode, spec: PretrainSpec, weights: str) -> Iterator[Problem]:
    """Yield what does not fit between a network and weights.

    Args:
        network: The network in the model of ``cfg``.
        cfg: A config with gn_det's keys.
        spec: What is known of the weights; what is None is not checked.
        weights: The name of the weights in messages.
    """
    if spec.network not in (None, network.kind):
        yield Problem(
            True,
            f"{weights} is a {spec.network}, but MODEL.BACKBONE.NAME "
            f"{cfg.MODEL.BACKBONE.NAME} is a {network.kind}.",
        )
        return
    keys = f"MODEL.{KEYS_OF[network.kind]}"
    yield from _depth_misfits(network, spec, weights, keys)
    yield from _norm_misfits(network, spec, weights, f"{keys}.NORM")
    yield from _group_misfits(network, cfg, spec, weights)
    have, want = network.weight_standardization, spec.weight_standardization
    if want not in (None, have):
        yield Problem(
            True,
            f"{weights} was trained {'with' if want else 'without'} Weight Standardization, but "
            f"MODEL.GN.WEIGHT_STANDARDIZATION is {have}. Set it to {want}.",
        )
    in_1x1 = network.stride_in_1x1
    if in_1x1 is not None and spec.stride_in_1x1 not in (None, in_1x1):
        yield Problem(
            True,
            f"{weights} has the stride on the {'1x1' if spec.stride_in_1x1 else '3x3'} "
            f"convolution, but {keys}.STRIDE_IN_1X1 is {in_1x1}. Set it to {spec.stride_in_1x1}.",
        )
    yield from _pixel_misfits(cfg, spec, weights)


def _depth_misfits(
    network: Network, spec: PretrainSpec, weights: str, keys: str
) -> Iterator[Problem]:
    if network.depth is not None and spec.depth not in (None, network.depth):
        kind = spec.network or network.kind
        yield Problem(
            True, f"{weights} is a {kind}-{spec.depth}, but {keys}.DEPTH is {network.depth}."
        )


def _norm_misfits(
    network: Network, spec: PretrainSpec, weights: str, key: str
) -> Iterator[Problem]:
    norm, trained = network.norm, spec.norm
    if trained == "" and norm != "":
        yield Problem(
            True, f"{weights} was trained without a norm, but {key} is {norm!r}. Set {key} ''."
        )
    elif trained in ("BN", "FrozenBN") and norm not in BN_NAMES:
        others = "the R-50-GN or R-101-GN weights, or " if network.kind == "ResNet" else ""
        yield Problem(
            True,
            f"{weights} was trained with BN, but {key} is {norm!r}: scale and offset "
            f"would be read into another norm and mean nothing there. Use {others}{key} FrozenBN.",
        )
    elif trained == "FrozenBN" and norm != "FrozenBN":
        yield Problem(
            True,
            f"{weights} holds BN folded into scale and offset, without its statistics, but "
            f"{key} is {norm!r}. Set {key} FrozenBN.",
        )
    elif trained not in (None, "", "BN", "FrozenBN", norm):
        yield Problem(
            True,
            f"{weights} was trained with {trained}, but {key} is {norm!r}: its convolutions "
            f"expect normalized features. Set {key} {trained}.",
        )


def _group_misfits(
    network: Network, cfg: CfgNode, spec: PretrainSpec, weights: str
) -> Iterator[Problem]:
    if network.norm != "GN":
        return
    gn = cfg.MODEL.GN
    number = network.groups.get("num_groups", gn.NUM_GROUPS)
    size = network.groups.get("channels_per_group", gn.CHANNELS_PER_GROUP)
    if spec.channels_per_group not in (None, network.groups.get("channels_per_group")):
        yield Problem(
            True,
            f"{weights} was trained with {spec.channels_per_group} channels per group, but "
            f"MODEL.GN.CHANNELS_PER_GROUP is {size}.",
        )
    if spec.num_groups in (None, network.groups.get("num_groups")):
        return
    trained = f"{weights} was trained with {spec.num_groups} groups"
    if size:
        yield Problem(True, f"{trained}, but MODEL.GN.CHANNELS_PER_GROUP is {size}. Set it to 0.")
    else:
        yield Problem(True, f"{trained}, but MODEL.GN.NUM_GROUPS is {number}.")


def _pixel_misfits(cfg: CfgNode, spec: PretrainSpec, weights: str) -> Iterator[Problem]:
    wanted = {
        "MODEL.PIXEL_MEAN": (cfg.MODEL.PIXEL_MEAN, spec.pixel_mean),
        "MODEL.PIXEL_STD": (cfg.MODEL.PIXEL_STD, spec.pixel_std),
    }
    for key, (have, want) in wanted.items():
        if want is None or have is None:  # a Python config need not have it
            continue
        same = len(have) == len(want)
        apart = max(abs(a - b) for a, b in zip(have, want)) if same else math.inf
        if apart > _SAME:
            yield Problem(
                apart > _OTHER,
                f"{weights} was trained with {key} {list(want)}, but it is {list(have)}.",
            )
    if cfg.INPUT.FORMAT is not None and spec.input_format not in (None, cfg.INPUT.FORMAT):
        yield Problem(
            True,
            f"{weights} was trained on {spec.input_format} images, but INPUT.FORMAT is "
            f"{cfg.INPUT.FORMAT}.",
        )
