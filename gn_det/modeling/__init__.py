"""The modules that gn_det registers with Detectron2: backbones, FPN, heads, and a classifier."""

from .box_head import GNFastRCNNConvFCHead
from .classifier import ImageClassifier
from .fpn import build_gn_resnet_fpn_backbone, build_gn_vgg_fpn_backbone
from .mask_head import GNMaskRCNNConvUpsampleHead
from .norms import NORMS, get_norm, norm_from_cfg
from .res5_heads import GNRes5ROIHeads
from .resnet import build_gn_resnet_backbone, make_resnet_stage
from .roi_heads import GNStandardROIHeads
from .rpn_head import GNRPNHead
from .vgg import build_gn_vgg_backbone
from .video import build_gn_inflated_resnet_backbone
from .weight_standardization import (
    StandardizedConv2d,
    fold_weight_standardization,
    standardize_convs,
)

__all__ = [
    "NORMS",
    "GNFastRCNNConvFCHead",
    "GNMaskRCNNConvUpsampleHead",
    "GNRPNHead",
    "GNRes5ROIHeads",
    "GNStandardROIHeads",
    "ImageClassifier",
    "StandardizedConv2d",
    "build_gn_inflated_resnet_backbone",
    "build_gn_resnet_backbone",
    "build_gn_resnet_fpn_backbone",
    "build_gn_vgg_backbone",
    "build_gn_vgg_fpn_backbone",
    "fold_weight_standardization",
    "get_norm",
    "make_resnet_stage",
    "norm_from_cfg",
    "standardize_convs",
]
