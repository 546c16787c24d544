"""What building the network would refuse late: names that are not registered, levels and sizes."""

import difflib
from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN_HEAD_REGISTRY,
)
from detectron2.utils.registry import Registry

from .weights import FPN_BACKBONES, INFLATED, Problem, network_node

__all__ = ["BOX_HEAD_USERS", "RESNET_DEPTHS", "network_problems", "resnet_problems"]

RESNET_DEPTHS = (18, 34, 50, 101, 152)
BOX_HEAD_USERS = ("GNStandardROIHeads", "StandardROIHeads", "CascadeROIHeads")
# what the architectures build; of one that is not ours or Detectron2's nothing is known
WITH_ROI_HEADS = ("GeneralizedRCNN", "PanopticFPN")
WITH_PROPOSALS = (*WITH_ROI_HEADS, "ProposalNetwork")
WITH_BACKBONE = (*WITH_PROPOSALS, "RetinaNet", "SemanticSegmentor", "ImageClassifier")
ANCHORS_BY_LEVEL = ("DefaultAnchorGenerator", "RotatedAnchorGenerator")


def network_problems(cfg: CfgNode) -> Iterator[Problem]:
    """Yield what building the model of a finished config would refuse."""
    yield from _unregistered(cfg)
    yield from _channels(cfg)
    yield from _anchors_of_other_levels(cfg)
    name = cfg.MODEL.BACKBONE.NAME
    if network_node(cfg) == "RESNETS" and name != INFLATED:
        yield from _features_that_are_not_made(cfg)
        yield from resnet_problems(cfg, narrow=name.startswith("build_gn_"))


def resnet_problems(cfg: CfgNode, *, narrow: bool = True) -> Iterator[Problem]:
    """Yield what is wrong with the depth, and with the keys that go with it.

    Args:
        cfg: a config with gn_det's keys.
        narrow: R18 and R34 may have fewer than 64 channels, as ours, for studies on small images.
    """
    r = cfg.MODEL.RESNETS
    if r.DEPTH not in RESNET_DEPTHS:
        known = ", ".join(map(str, RESNET_DEPTHS))
        yield Problem(True, f"MODEL.RESNETS.DEPTH is {r.DEPTH}; known are {known}.")
    elif r.DEPTH < 50:
        yield from _basic_blocks(cfg, narrow)
    elif any(r.DEFORM_ON_PER_STAGE) and cfg.MODEL.GN.WEIGHT_STANDARDIZATION:
        yield Problem(
            True,
            "MODEL.GN.WEIGHT_STANDARDIZATION is for plain convolutions, but "
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE is {r.DEFORM_ON_PER_STAGE}. "
            "Set one of them to False.",
        )


def _basic_blocks(cfg: CfgNode, narrow: bool) -> Iterator[Problem]:
    r = cfg.MODEL.RESNETS
    wanted = {
        # 256, the default, is for bottlenecks
        "RES2_OUT_CHANNELS": min(64, r.RES2_OUT_CHANNELS) if narrow else 64,
        "RES5_DILATION": 1,
        "NUM_GROUPS": 1,
    }
    for key, value in wanted.items():
        if r[key] != value:
            yield Problem(
                True,
                f"MODEL.RESNETS.DEPTH {r.DEPTH} is made of basic blocks and needs "
                f"MODEL.RESNETS.{key} {value}, got {r[key]}.",
            )
    if any(r.DEFORM_ON_PER_STAGE):
        yield Problem(
            True,
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE is for bottlenecks (depth 50 and more), "
            f"but MODEL.RESNETS.DEPTH is {r.DEPTH}.",
        )


def _channels(cfg: CfgNode) -> Iterator[Problem]:
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    if not len(mean) == len(std) > 0:
        yield Problem(
            True,
            f"MODEL.PIXEL_MEAN is {mean} and MODEL.PIXEL_STD {std}: each takes one number for "
            "every channel of the images.",
        )


def _features_that_are_not_made(cfg: CfgNode) -> Iterator[Problem]:
    m = cfg.MODEL
    made, source = m.RESNETS.OUT_FEATURES, "MODEL.RESNETS.OUT_FEATURES"
    if m.BACKBONE.NAME in FPN_BACKBONES:
        yield from _missing("MODEL.FPN.IN_FEATURES", m.FPN.IN_FEATURES, made, source)
        levels = [int(name[3:]) for name in m.FPN.IN_FEATURES if name[3:].isdecimal()]
        made = [f"p{level}" for level in (*levels, *(n + 1 for n in levels[-1:]))]
        source = "the pyramid on MODEL.FPN.IN_FEATURES"
    for key, names in _levels(cfg).items():
        yield from _missing(key, names, made, source)


def _missing(key: str, names: list[str], made: list[str], source: str) -> Iterator[Problem]:
    if missing := [name for name in names if name not in made]:
        yield Problem(
            True, f"{key} has {', '.join(missing)}, but {source} gives {', '.join(made)} only."
        )


def _anchors_of_other_levels(cfg: CfgNode) -> Iterator[Problem]:
    m = cfg.MODEL
    if m.ANCHOR_GENERATOR.NAME not in ANCHORS_BY_LEVEL:
        return
    used = _levels(cfg)
    for key in ("MODEL.RPN.IN_FEATURES", "MODEL.RETINANET.IN_FEATURES"):
        names = used.get(key, [])
        for own in ("SIZES", "ASPECT_RATIOS"):
            lists = m.ANCHOR_GENERATOR[own]
            # one list, or plain numbers, are for all levels
            of_levels = len(lists) > 1 and isinstance(lists[0], list | tuple)
            if names and of_levels and len(lists) != len(names):
                yield Problem(
                    True,
                    f"MODEL.ANCHOR_GENERATOR.{own} has {len(lists)} lists, one a level, but "
                    f"{key} has {len(names)} levels ({', '.join(names)}).",
                )


def _levels(cfg: CfgNode) -> dict[str, list[str]]:
    """Return the features that are used, by the key that names them."""
    m = cfg.MODEL
    used = {}
    if m.META_ARCHITECTURE == "RetinaNet":
        used["MODEL.RETINANET.IN_FEATURES"] = m.RETINANET.IN_FEATURES
    if m.META_ARCHITECTURE in WITH_PROPOSALS and m.PROPOSAL_GENERATOR.NAME in ("RPN", "RRPN"):
        used["MODEL.RPN.IN_FEATURES"] = m.RPN.IN_FEATURES
    if m.META_ARCHITECTURE in WITH_ROI_HEADS:
        used["MODEL.ROI_HEADS.IN_FEATURES"] = m.ROI_HEADS.IN_FEATURES
    if m.META_ARCHITECTURE in ("PanopticFPN", "SemanticSegmentor"):
        used["MODEL.SEM_SEG_HEAD.IN_FEATURES"] = m.SEM_SEG_HEAD.IN_FEATURES
    return used


def _unregistered(cfg: CfgNode) -> Iterator[Problem]:
    for key, name, registry in _named_parts(cfg):
        known = [known for known, _ in registry]
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"Was {close[0]} meant?" if close else f"Known are {', '.join(known)}."
            yield Problem(
                True,
                f"{key} is {name!r}, which is not registered. {hint} (A module with one of your "
                "own has to be imported first.)",
            )


def _named_parts(cfg: CfgNode) -> Iterator[tuple[str, str, Registry]]:
    """Yield (key, name, where it is to be registered) of the parts that the model has."""
    m = cfg.MODEL
    yield "MODEL.META_ARCHITECTURE", m.META_ARCHITECTURE, META_ARCH_REGISTRY
    if m.META_ARCHITECTURE in WITH_BACKBONE:
        yield "MODEL.BACKBONE.NAME", m.BACKBONE.NAME, BACKBONE_REGISTRY
    generator = m.PROPOSAL_GENERATOR.NAME
    if m.META_ARCHITECTURE in WITH_PROPOSALS and generator != "PrecomputedProposals":
        yield "MODEL.PROPOSAL_GENERATOR.NAME", generator, PROPOSAL_GENERATOR_REGISTRY
        if generator in ("RPN", "RRPN"):
            yield "MODEL.RPN.HEAD_NAME", m.RPN.HEAD_NAME, RPN_HEAD_REGISTRY
            yield "MODEL.ANCHOR_GENERATOR.NAME", m.ANCHOR_GENERATOR.NAME, ANCHOR_GENERATOR_REGISTRY
    if m.META_ARCHITECTURE in WITH_ROI_HEADS:
        yield "MODEL.ROI_HEADS.NAME", m.ROI_HEADS.NAME, ROI_HEADS_REGISTRY
        if m.ROI_HEADS.NAME in BOX_HEAD_USERS:
            yield "MODEL.ROI_BOX_HEAD.NAME", m.ROI_BOX_HEAD.NAME, ROI_BOX_HEAD_REGISTRY
        heads = {"MASK": ROI_MASK_HEAD_REGISTRY, "KEYPOINT": ROI_KEYPOINT_HEAD_REGISTRY}
        for head, registry in heads.items():
            if m[f"{head}_ON"]:
                yield f"MODEL.ROI_{head}_HEAD.NAME", m[f"ROI_{head}_HEAD"].NAME, registry
