"""The backbone that weights describe: to see whether they are complete without a config."""

import dataclasses
import re

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from torch import nn

from gn_det.config import get_cfg
from gn_det.modeling import build_gn_resnet_backbone, build_gn_vgg_backbone
from gn_det.modeling.vgg import NUM_CONVS

from .converted import Converted, resnet_depth, resnet_norm
from .errors import WeightsError

__all__ = ["backbone_alone", "reference_backbone"]

_IN_BACKBONE = re.compile(
    r"(?:^|\.)((?:stem|res[2-5]\.\d+)\.(?:conv\d|shortcut).*|vgg[1-5]\.\d+\..*)"
)


def backbone_alone(converted: Converted) -> tuple[Converted, list[str]]:
    """Return the weights of the backbone, named from it on (``stem.conv1.weight``), and the rest.

    The rest are names as the file has them.
    """
    state, names, rest = {}, {}, []
    for name, value in converted.state.items():
        found = _IN_BACKBONE.search(name)
        if found:
            state[found[1]] = value
            names[found[1]] = converted.name_in_file(name)
        elif not name.startswith("linear."):
            rest.append(converted.name_in_file(name))
        else:
            state[name], names[name] = value, converted.name_in_file(name)
    return dataclasses.replace(converted, state=state, names=names), rest


def reference_backbone(converted: Converted) -> nn.Module:
    """Build the ResNet or VGG of the weights' own depth, widths and norm, on the meta device.

    Its parameters have shapes and names (``stem.conv1.weight``), and no values.

    Raises:
        WeightsError: they are not the weights of a ResNet or VGG of gn_det's.
    """
    cfg = get_cfg()
    cfg.MODEL.GN.NUM_GROUPS = converted.known.num_groups or 32
    cfg.MODEL.GN.CHANNELS_PER_GROUP = converted.known.channels_per_group or 0
    cfg.MODEL.GN.WEIGHT_STANDARDIZATION = bool(converted.known.weight_standardization)
    is_vgg = any(name.startswith("vgg") for name in converted.state)
    build = build_gn_vgg_backbone if is_vgg else build_gn_resnet_backbone
    (_describe_vgg if is_vgg else _describe_resnet)(cfg, converted)
    with torch.device("meta"):
        return build(cfg, ShapeSpec(channels=3))


def _describe_resnet(cfg: CfgNode, converted: Converted) -> None:
    names = list(converted.state)
    r = cfg.MODEL.RESNETS
    r.DEPTH = converted.known.depth or resnet_depth(names) or 0
    if not r.DEPTH:
        raise WeightsError(
            "It holds no whole ResNet-18, -34, -50, -101 or -152; to see what is in it, give the "
            "config that it is for."
        )
    r.NORM = _norm(converted)
    r.OUT_FEATURES = ["res5"]
    _set_widths(cfg, converted)


def _describe_vgg(cfg: CfgNode, converted: Converted) -> None:
    v, state = cfg.MODEL.VGG, converted.state
    convs = [name for name in state if name.count(".") == 2 and name.endswith(".weight")]
    depths = [depth for depth, counts in NUM_CONVS.items() if sum(counts) == len(convs)]
    if not depths or "vgg1.0.weight" not in state:
        raise WeightsError(
            "It holds no whole VGG-11, -13, -16 or -19; to see what is in it, give the config that "
            "it is for."
        )
    v.DEPTH, v.BASE_CHANNELS = depths[0], len(state["vgg1.0.weight"])
    v.NORM = _norm(converted) if any(".norm." in name for name in state) else ""


def _norm(converted: Converted) -> str:
    norm = converted.known.norm or resnet_norm(list(converted.state)) or "GN"
    # BN's four tensors fill FrozenBN's
    return "FrozenBN" if norm == "BN" else norm


def _set_widths(cfg: CfgNode, converted: Converted) -> None:
    r, bottleneck = cfg.MODEL.RESNETS, cfg.MODEL.RESNETS.DEPTH >= 50
    shapes = {name: value.shape for name, value in converted.state.items() if value.ndim == 4}
    r.RES2_OUT_CHANNELS = 256 if bottleneck else 64
    if "stem.conv1.weight" in shapes:
        r.STEM_OUT_CHANNELS = shapes["stem.conv1.weight"][0]
    if bottleneck and {"res2.0.conv2.weight", "res2.0.conv3.weight"} <= set(shapes):
        channels, r.WIDTH_PER_GROUP = shapes["res2.0.conv2.weight"][:2]
        r.NUM_GROUPS = channels // r.WIDTH_PER_GROUP
        r.RES2_OUT_CHANNELS = shapes["res2.0.conv3.weight"][0]
