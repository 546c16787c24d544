"""The modules that gn_det registers with Detectron2 (backbones, FPN, heads), and their checks."""

from .box_head import GNFastRCNNConvFCHead
from .classifier import ImageClassifier
from .config_checks import check_config, find_problems
from .fpn import FPN, build_gn_resnet_fpn_backbone, build_gn_vgg_fpn_backbone
from .inflated_resnet import build_gn_inflated_resnet_backbone
from .mask_head import GNMaskRCNNConvUpsampleHead
from .norms import NORMS, Norm, get_norm, norm_from_cfg
from .poolers import ROIPooler
from .pretrain_spec import PretrainSpec, find_published_spec, pretrain_spec_from_cfg
from .res5_heads import GNRes5ROIHeads, build_res5
from .resnet import build_gn_resnet_backbone, make_resnet_stage
from .roi_heads import GNStandardROIHeads
from .rpn_head import GNRPNHead
from .vgg import build_gn_vgg_backbone
from .weight_standardization import (
    StandardizedConv2d,
    fold_weight_standardization,
    standardize_convs,
)
from .weights_fit import check_weights

__all__ = [
    "FPN",
    "NORMS",
    "GNFastRCNNConvFCHead",
    "GNMaskRCNNConvUpsampleHead",
    "GNRPNHead",
    "GNRes5ROIHeads",
    "GNStandardROIHeads",
    "ImageClassifier",
    "Norm",
    "PretrainSpec",
    "ROIPooler",
    "StandardizedConv2d",
    "build_gn_inflated_resnet_backbone",
    "build_gn_resnet_backbone",
    "build_gn_resnet_fpn_backbone",
    "build_gn_vgg_backbone",
    "build_gn_vgg_fpn_backbone",
    "build_res5",
    "check_config",
    "check_weights",
    "find_problems",
    "find_published_spec",
    "fold_weight_standardization",
    "get_norm",
    "make_resnet_stage",
    "norm_from_cfg",
    "pretrain_spec_from_cfg",
    "standardize_convs",
]
