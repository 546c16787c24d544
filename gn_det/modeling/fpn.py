"""Feature pyramid on a ResNet, with ``MODEL.FPN.NORM`` on lateral and output convolutions."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from .norms import norm_from_cfg
from .resnet import build_gn_resnet_backbone
from .weight_standardization import standardize_convs

__all__ = ["build_gn_resnet_fpn_backbone"]


@BACKBONE_REGISTRY.register()
def build_gn_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build Detectron2's FPN on :func:`build_gn_resnet_backbone`.

    ``MODEL.FPN.NORM`` may be any norm by name; with one, the convolutions of the pyramid have no
    bias. ``MODEL.GN.WEIGHT_STANDARDIZATION`` is obeyed. Features are called p2 to p6.

    Args:
        cfg: a config with our keys.
        input_shape: its ``channels`` are those of the image.
    """
    fpn = FPN(
        bottom_up=build_gn_resnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=norm_from_cfg(cfg, cfg.MODEL.FPN.NORM),
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
    if cfg.MODEL.GN.WEIGHT_STANDARDIZATION:
        standardize_convs(fpn)
    return fpn
