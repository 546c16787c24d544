"""An R-CNN's config as Detectron2's LazyCalls: a tree of what is to be built, from a YAML's keys.

The order of the arguments is the order in which Detectron2 builds the parts from a YAML, so that
one seed gives both the same weights.
"""

from typing import Any

import torch
from detectron2.config import CfgNode, LazyCall
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    GeneralizedRCNN,
    build_backbone,
    poolers,
)
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from omegaconf import DictConfig

from gn_det.config import ConfigError

from .from_keys import backbone_from_keys, res5_from_keys
from .norms import get_norm
from .poolers import ROIPooler

__all__ = ["lazy_model", "refuse_other"]

NUM_CLASSES = "${..num_classes}"  # of the RoI heads, one level up

# what has a lazy form, by key
KNOWN = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.BACKBONE.NAME": (
        "build_gn_resnet_fpn_backbone",
        "build_gn_resnet_backbone",
        "build_resnet_fpn_backbone",
        "build_resnet_backbone",
        "build_gn_vgg_fpn_backbone",
        "build_gn_vgg_backbone",
    ),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.RPN.HEAD_NAME": ("GNRPNHead", "StandardRPNHead"),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.ROI_HEADS.NAME": (
        "GNStandardROIHeads",
        "StandardROIHeads",
        "GNRes5ROIHeads",
        "Res5ROIHeads",
    ),
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": (False,),
    "MODEL.KEYPOINT_ON": (False,),
    "MODEL.LOAD_PROPOSALS": (False,),
}


def lazy_model(cfg: CfgNode) -> DictConfig:
    """Return the LazyCall that ``detectron2.config.instantiate`` makes the model of ``cfg`` from.

    Box and mask head may be of any registered class that is configurable.

    Args:
        cfg: a finished config with gn_det's keys.

    Raises:
        ConfigError: a part that has no lazy form.
    """
    refuse_other(cfg, KNOWN)
    shapes = _feature_shapes(cfg)
    return LazyCall(GeneralizedRCNN)(
        backbone=_backbone(cfg),
        proposal_generator=_rpn(cfg, shapes),
        roi_heads=_roi_heads(cfg, shapes),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        input_format=cfg.INPUT.FORMAT,
        vis_period=cfg.VIS_PERIOD,
    )


def refuse_other(cfg: CfgNode, known: dict[str, tuple]) -> None:
    """Raise a ConfigError where a key of ``known`` has a value that is not listed there."""
    for key, values in known.items():
        node = cfg
        for part in key.split("."):
            node = node[part]
        if node not in values:
            raise ConfigError(
                f"{key} {node!r} has no lazy form here (there is one for "
                f"{' and '.join(map(repr, values))}): train the YAML, or write the LazyConfig."
            )


def _keys(node: CfgNode) -> dict[str, Any]:
    return {key.lower(): value for key, value in node.items()}


def _feature_shapes(cfg: CfgNode) -> dict[str, ShapeSpec]:
    """Return channels and stride of res2 to res5, or of p2 to p6 where there is an FPN."""
    r = cfg.MODEL.RESNETS
    if "fpn" in cfg.MODEL.BACKBONE.NAME:
        channels = cfg.MODEL.FPN.OUT_CHANNELS
        return {f"p{k}": ShapeSpec(channels=channels, stride=2**k) for k in range(2, 7)}
    if "vgg" in cfg.MODEL.BACKBONE.NAME:
        with torch.device("meta"):  # neither memory nor random numbers
            return build_backbone(cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))).output_shape()
    strides = {2: 4, 3: 8, 4: 16, 5: 32 // r.RES5_DILATION}
    return {
        f"res{k}": ShapeSpec(channels=r.RES2_OUT_CHANNELS * 2 ** (k - 2), stride=stride)
        for k, stride in strides.items()
    }


def _backbone(cfg: CfgNode) -> DictConfig:
    m = cfg.MODEL
    node = "vgg" if "vgg" in m.BACKBONE.NAME else "resnets"
    return LazyCall(backbone_from_keys)(
        name=m.BACKBONE.NAME,
        in_channels=len(m.PIXEL_MEAN),
        freeze_at=m.BACKBONE.FREEZE_AT,
        **{node: _keys(m[node.upper()])},
        gn=_keys(m.GN),
        fpn=_keys(m.FPN) if "fpn" in m.BACKBONE.NAME else None,
        channels_last=m.CHANNELS_LAST,
    )


def _box2box(weights: tuple) -> DictConfig:
    return LazyCall(Box2BoxTransform)(weights=weights)


def _matcher(node: CfgNode, allow_low_quality_matches: bool) -> DictConfig:
    return LazyCall(Matcher)(
        thresholds=node.IOU_THRESHOLDS,
        labels=node.IOU_LABELS,
        allow_low_quality_matches=allow_low_quality_matches,
    )


def _rpn(cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> DictConfig:
    m, rpn = cfg.MODEL, cfg.MODEL.RPN
    features = [shapes[name] for name in rpn.IN_FEATURES]
    anchors = {
        "sizes": m.ANCHOR_GENERATOR.SIZES,
        "aspect_ratios": m.ANCHOR_GENERATOR.ASPECT_RATIOS,
        "strides": [feature.stride for feature in features],
        "offset": m.ANCHOR_GENERATOR.OFFSET,
    }
    head = RPN_HEAD_REGISTRY.get(rpn.HEAD_NAME)
    return LazyCall(RPN)(
        in_features=rpn.IN_FEATURES,
        head=LazyCall(head)(**head.from_config(cfg, features)),
        anchor_generator=LazyCall(DefaultAnchorGenerator)(**anchors),
        anchor_matcher=_matcher(rpn, allow_low_quality_matches=True),
        box2box_transform=_box2box(rpn.BBOX_REG_WEIGHTS),
        batch_size_per_image=rpn.BATCH_SIZE_PER_IMAGE,
        positive_fraction=rpn.POSITIVE_FRACTION,
        pre_nms_topk=(rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST),
        post_nms_topk=(rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST),
        nms_thresh=rpn.NMS_THRESH,
        min_box_size=m.PROPOSAL_GENERATOR.MIN_SIZE,
        anchor_boundary_thresh=rpn.BOUNDARY_THRESH,
        loss_weight={
            "loss_rpn_cls": rpn.LOSS_WEIGHT,
            "loss_rpn_loc": rpn.BBOX_REG_LOSS_WEIGHT * rpn.LOSS_WEIGHT,
        },
        box_reg_loss_type=rpn.BBOX_REG_LOSS_TYPE,
        smooth_l1_beta=rpn.SMOOTH_L1_BETA,
    )


def _roi_heads(cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> DictConfig:
    heads = cfg.MODEL.ROI_HEADS
    shared = {
        "batch_size_per_image": heads.BATCH_SIZE_PER_IMAGE,
        "positive_fraction": heads.POSITIVE_FRACTION,
        "num_classes": heads.NUM_CLASSES,
        "proposal_append_gt": heads.PROPOSAL_APPEND_GT,
        "proposal_matcher": _matcher(heads, allow_low_quality_matches=False),
    }
    own = _c4_heads if "Res5" in heads.NAME else _standard_heads
    features = {name: shapes[name] for name in heads.IN_FEATURES}
    return LazyCall(ROI_HEADS_REGISTRY.get(heads.NAME))(**shared, **own(cfg, features))


def _standard_heads(cfg: CfgNode, features: dict[str, ShapeSpec]) -> dict[str, Any]:
    box, mask = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD
    channels = next(iter(features.values())).channels
    shape = _square(channels, box.POOLER_RESOLUTION)
    box_head = ROI_BOX_HEAD_REGISTRY.get(box.NAME)
    with torch.device("meta"):  # neither memory nor random numbers, only the shape of its output
        output = box_head(cfg, shape).output_shape
    parts = {
        "box_in_features": cfg.MODEL.ROI_HEADS.IN_FEATURES,
        "box_pooler": _pooler(cfg, box, features),
        "box_head": _head(cfg, box_head, box, shape),
        "box_predictor": _predictor(cfg, output),
        "train_on_pred_boxes": box.TRAIN_ON_PRED_BOXES,
    }
    if cfg.MODEL.MASK_ON:
        parts["mask_in_features"] = cfg.MODEL.ROI_HEADS.IN_FEATURES
        parts["mask_pooler"] = _pooler(cfg, mask, features)
        parts["mask_head"] = _mask_head(cfg, _square(channels, mask.POOLER_RESOLUTION))
    return parts


def _c4_heads(cfg: CfgNode, features: dict[str, ShapeSpec]) -> dict[str, Any]:
    m, box = cfg.MODEL, cfg.MODEL.ROI_BOX_HEAD
    channels = m.RESNETS.RES2_OUT_CHANNELS * 8
    parts = {
        "in_features": m.ROI_HEADS.IN_FEATURES,
        "pooler": _pooler(cfg, box, features),
        "res5": LazyCall(res5_from_keys)(
            resnets=_keys(m.RESNETS), gn=_keys(m.GN), channels_last=m.CHANNELS_LAST
        ),
        "box_predictor": _predictor(cfg, _square(channels, 1)),
    }
    if m.MASK_ON:
        parts["mask_head"] = _mask_head(cfg, _square(channels, box.POOLER_RESOLUTION))
    return parts


def _square(channels: int, size: int) -> ShapeSpec:
    return ShapeSpec(channels=channels, height=size, width=size)


def _pooler(cfg: CfgNode, node: CfgNode, features: dict[str, ShapeSpec]) -> DictConfig:
    ours = cfg.MODEL.ROI_HEADS.NAME.startswith("GN")
    return LazyCall(ROIPooler if ours else poolers.ROIPooler)(
        output_size=node.POOLER_RESOLUTION,
        scales=[1.0 / feature.stride for feature in features.values()],
        sampling_ratio=node.POOLER_SAMPLING_RATIO,
        pooler_type=node.POOLER_TYPE,
    )


def _head(cfg: CfgNode, cls: type, node: CfgNode, shape: ShapeSpec) -> DictConfig:
    args = cls.from_config(cfg, shape)
    if "conv_norm" in args and not isinstance(args["conv_norm"], str):
        args["conv_norm"] = _norm(cfg, node.NORM)
    return LazyCall(cls)(**args)


def _norm(cfg: CfgNode, name: str) -> DictConfig:
    gn = cfg.MODEL.GN
    return LazyCall(get_norm)(
        name=name,
        num_groups=gn.NUM_GROUPS,
        channels_per_group=gn.CHANNELS_PER_GROUP or None,
        eps=gn.EPS,
    )


def _mask_head(cfg: CfgNode, shape: ShapeSpec) -> DictConfig:
    node = cfg.MODEL.ROI_MASK_HEAD
    head = _head(cfg, ROI_MASK_HEAD_REGISTRY.get(node.NAME), node, shape)
    if not node.CLS_AGNOSTIC_MASK:
        head.num_classes = NUM_CLASSES
    return head


def _predictor(cfg: CfgNode, shape: ShapeSpec) -> DictConfig:
    heads, box = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    return LazyCall(FastRCNNOutputLayers)(
        input_shape=shape,
        box2box_transform=_box2box(box.BBOX_REG_WEIGHTS),
        num_classes=NUM_CLASSES,
        test_score_thresh=heads.SCORE_THRESH_TEST,
        test_nms_thresh=heads.NMS_THRESH_TEST,
        test_topk_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        cls_agnostic_bbox_reg=box.CLS_AGNOSTIC_BBOX_REG,
        smooth_l1_beta=box.SMOOTH_L1_BETA,
        box_reg_loss_type=box.BBOX_REG_LOSS_TYPE,
        loss_weight={"loss_box_reg": box.BBOX_REG_LOSS_WEIGHT},
        use_sigmoid_ce=box.USE_SIGMOID_CE,
    )
