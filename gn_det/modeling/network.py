"""What the ResNet or VGG in a built model is: depth, norm and strides of its blocks."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BottleneckBlock, DeformBottleneckBlock, ResNet
from torch import nn

from .norms import NORMS, groups_of, is_norm, name_of_norms
from .resnet import NUM_BLOCKS
from .vgg import NUM_CONVS, VGG
from .weight_standardization import StandardizedConv2d

__all__ = ["KEYS_OF", "Network", "blocks_of", "network_of", "network_of_cfg", "resnet_depth"]

# the keys below MODEL that Detectron2 and gn_det have for a network
KEYS_OF = {"ResNet": "RESNETS", "3D ResNet": "RESNETS", "VGG": "VGG"}
_BLOCK = re.compile(r"(?:^|\.)res([2-5])\.(\d+)\.conv(\d)\.weight$")


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
    given = NORMS[name].groups if name in NORMS else None
    if given is None:
        return {}
    groups = [groups_of(norm) for norm in norms if not isinstance(norm, FrozenBatchNorm2d)]
    for key in (*given, "num_groups", "channels_per_group"):
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
