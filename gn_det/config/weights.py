"""Whether a config describes the network that its weights were trained in, and which one it is."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from detectron2.config import CfgNode

from .known_weights import PretrainSpec

__all__ = [
    "FPN_BACKBONES",
    "GROUPED",
    "Problem",
    "check_weights",
    "network_node",
    "pretrain_spec_from_cfg",
]

GROUPED = ("GN", "LN", "IN")
INFLATED = "build_gn_inflated_resnet_backbone"
# backbone -> the keys below MODEL that describe it
NETWORK_NODES = {
    "build_gn_resnet_fpn_backbone": "RESNETS",
    "build_resnet_fpn_backbone": "RESNETS",
    "build_gn_resnet_backbone": "RESNETS",
    "build_resnet_backbone": "RESNETS",
    INFLATED: "RESNETS",
    "build_gn_vgg_fpn_backbone": "VGG",
    "build_gn_vgg_backbone": "VGG",
}
FPN_BACKBONES = tuple(name for name in NETWORK_NODES if "_fpn_" in name)
NETWORKS = {"RESNETS": "ResNet", "VGG": "VGG"}

# Mean or std of a channel: further apart than this is another preprocessing, closer than that is
# the same. Between them lie Detectron's two means for one data set (102.98 and 103.53).
_OTHER, _SAME = 1.0, 0.01


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a config.

    Attributes:
        fatal: it must not be trained so; otherwise a warning.
        message: the keys, what is wrong, and what to do.
    """

    fatal: bool
    message: str


def network_node(cfg: CfgNode) -> str | None:
    """Return the key below ``MODEL`` of the backbone's keys; None for one that is not known."""
    return NETWORK_NODES.get(cfg.MODEL.BACKBONE.NAME)


def _network(cfg: CfgNode) -> str:
    is_inflated = cfg.MODEL.BACKBONE.NAME == INFLATED
    return "3D ResNet" if is_inflated else NETWORKS[network_node(cfg)]


def pretrain_spec_from_cfg(cfg: CfgNode) -> PretrainSpec:
    """Return what weights that are trained in the network of ``cfg`` have to say of themselves.

    Args:
        cfg: a config with gn_det's keys. Of a backbone that is not known only the preprocessing is.
    """
    node, gn = network_node(cfg), cfg.MODEL.GN
    pixels = {
        "pixel_mean": tuple(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": tuple(cfg.MODEL.PIXEL_STD),
        "input_format": cfg.INPUT.FORMAT,
    }
    if node is None:
        return PretrainSpec(**pixels)
    norm = cfg.MODEL[node].NORM
    if norm == "GN" and gn.CHANNELS_PER_GROUP:
        groups = {"channels_per_group": gn.CHANNELS_PER_GROUP}
    elif norm == "GN":
        groups = {"num_groups": gn.NUM_GROUPS}
    else:
        groups = {"LN": {"num_groups": 1}, "IN": {"channels_per_group": 1}}.get(norm, {})
    return PretrainSpec(
        network=_network(cfg),
        depth=cfg.MODEL[node].DEPTH,
        norm="BN" if norm in ("SyncBN", "FrozenBN") else norm,  # with statistics, all of them
        stride_in_1x1=cfg.MODEL.RESNETS.STRIDE_IN_1X1 if node == "RESNETS" else None,
        weight_standardization=gn.WEIGHT_STANDARDIZATION,
        **groups,
        **pixels,
    )


def check_weights(cfg: CfgNode, known: PretrainSpec, weights: str = "") -> list[Problem]:
    """Return what does not fit between a config and weights.

    Args:
        cfg: a config with gn_det's keys. One whose backbone is not known is not checked.
        known: what is known of the weights; what is None is not checked.
        weights: what to call them, in place of ``MODEL.WEIGHTS ...``.
    """
    node = network_node(cfg)
    if node is None:
        return []
    weights = weights or f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS}"
    if known.network not in (None, _network(cfg)):
        return [
            Problem(
                True,
                f"{weights} is a {known.network}, but MODEL.BACKBONE.NAME "
                f"{cfg.MODEL.BACKBONE.NAME} is a {_network(cfg)}.",
            )
        ]
    checks = (_depth, _norm, _groups, _weight_standardization, _stride, _pixels)
    return [problem for check in checks for problem in check(cfg, node, known, weights)]


def _depth(cfg: CfgNode, node: str, known: PretrainSpec, weights: str) -> Iterator[Problem]:
    depth = cfg.MODEL[node].DEPTH
    if known.depth not in (None, depth):
        name = known.network or NETWORKS[node]
        yield Problem(
            True, f"{weights} is a {name}-{known.depth}, but MODEL.{node}.DEPTH is {depth}."
        )


def _norm(cfg: CfgNode, node: str, known: PretrainSpec, weights: str) -> Iterator[Problem]:
    key, norm = f"MODEL.{node}.NORM", cfg.MODEL[node].NORM
    if known.norm in GROUPED and norm != known.norm:
        yield Problem(
            True,
            f"{weights} was trained with {known.norm}, but {key} is {norm!r}: its convolutions "
            f"expect normalized features. Set {key} {known.norm}.",
        )
    if known.norm == "" and norm != "":
        yield Problem(
            True, f"{weights} was trained without a norm, but {key} is {norm!r}. Set {key} ''."
        )
    if known.norm in ("BN", "FrozenBN") and norm in (*GROUPED, ""):
        others = "the R-50-GN or R-101-GN weights, or " if node == "RESNETS" else ""
        yield Problem(
            True,
            f"{weights} was trained with BN, but {key} is {norm!r}: scale and offset "
            f"would be read into another norm and mean nothing there. Use {others}{key} FrozenBN.",
        )
    if known.norm == "FrozenBN" and norm in ("BN", "SyncBN"):
        yield Problem(
            True,
            f"{weights} holds BN folded into scale and offset, without its statistics, but "
            f"{key} is {norm!r}. Set {key} FrozenBN.",
        )


def _groups(cfg: CfgNode, node: str, known: PretrainSpec, weights: str) -> Iterator[Problem]:
    if cfg.MODEL[node].NORM != "GN":
        return
    gn = cfg.MODEL.GN
    if known.channels_per_group is not None and known.channels_per_group != gn.CHANNELS_PER_GROUP:
        yield Problem(
            True,
            f"{weights} was trained with {known.channels_per_group} channels per group, but "
            f"MODEL.GN.CHANNELS_PER_GROUP is {gn.CHANNELS_PER_GROUP}.",
        )
    if known.num_groups is None:
        return
    trained = f"{weights} was trained with {known.num_groups} groups"
    if gn.CHANNELS_PER_GROUP:
        yield Problem(
            True,
            f"{trained}, but MODEL.GN.CHANNELS_PER_GROUP is {gn.CHANNELS_PER_GROUP}. Set it to 0.",
        )
    elif known.num_groups != gn.NUM_GROUPS:
        yield Problem(True, f"{trained}, but MODEL.GN.NUM_GROUPS is {gn.NUM_GROUPS}.")


def _weight_standardization(
    cfg: CfgNode, node: str, known: PretrainSpec, weights: str
) -> Iterator[Problem]:
    have, want = cfg.MODEL.GN.WEIGHT_STANDARDIZATION, known.weight_standardization
    if want not in (None, have):
        yield Problem(
            True,
            f"{weights} was trained {'with' if want else 'without'} Weight Standardization, but "
            f"MODEL.GN.WEIGHT_STANDARDIZATION is {have}. Set it to {want}.",
        )


def _stride(cfg: CfgNode, node: str, known: PretrainSpec, weights: str) -> Iterator[Problem]:
    if node != "RESNETS" or cfg.MODEL.RESNETS.DEPTH < 50:
        return
    stride_in_1x1 = cfg.MODEL.RESNETS.STRIDE_IN_1X1
    if known.stride_in_1x1 not in (None, stride_in_1x1):
        yield Problem(
            True,
            f"{weights} has the stride on the {'1x1' if known.stride_in_1x1 else '3x3'} "
            f"convolution, but MODEL.RESNETS.STRIDE_IN_1X1 is {stride_in_1x1}. "
            f"Set it to {known.stride_in_1x1}.",
        )


def _pixels(cfg: CfgNode, node: str, known: PretrainSpec, weights: str) -> Iterator[Problem]:
    wanted = {
        "MODEL.PIXEL_MEAN": (cfg.MODEL.PIXEL_MEAN, known.pixel_mean),
        "MODEL.PIXEL_STD": (cfg.MODEL.PIXEL_STD, known.pixel_std),
    }
    for key, (have, want) in wanted.items():
        if want is None:
            continue
        same = len(have) == len(want)
        apart = max(abs(a - b) for a, b in zip(have, want)) if same else math.inf
        if apart > _SAME:
            yield Problem(
                apart > _OTHER,
                f"{weights} was trained with {key} {list(want)}, but it is {list(have)}.",
            )
    if known.input_format not in (None, cfg.INPUT.FORMAT):
        yield Problem(
            True,
            f"{weights} was trained on {known.input_format} images, but INPUT.FORMAT is "
            f"{cfg.INPUT.FORMAT}.",
        )
