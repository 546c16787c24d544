"""What gn_det registers with Detectron2: backbones, FPN, box head, mask head, C4 heads."""

from .box_head import GNFastRCNNConvFCHead
from .fpn import build_gn_resnet_fpn_backbone
from .mask_head import GNMaskRCNNConvUpsampleHead
from .norms import NORMS, get_norm, norm_from_cfg
from .res5_heads import GNRes5ROIHeads
from .resnet import build_gn_resnet_backbone, make_resnet_stage
from .weight_standardization import (
    StandardizedConv2d,
    fold_weight_standardization,
    standardize_convs,
)

__all__ = [
    "NORMS",
    "GNFastRCNNConvFCHead",
    "GNMaskRCNNConvUpsampleHead",
    "GNRes5ROIHeads",
    "StandardizedConv2d",
    "build_gn_resnet_backbone",
    "build_gn_resnet_fpn_backbone",
    "fold_weight_standardization",
    "get_norm",
    "make_resnet_stage",
    "norm_from_cfg",
    "standardize_convs",
]
