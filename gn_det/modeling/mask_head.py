"""Mask head with any norm (section 4.2: GN on the mask head's convolutions)."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead

from .norms import norm_from_cfg

__all__ = ["GNMaskRCNNConvUpsampleHead"]


@ROI_MASK_HEAD_REGISTRY.register()
class GNMaskRCNNConvUpsampleHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head, its convolutions followed by ``MODEL.ROI_MASK_HEAD.NORM``.

    Input (R, C, H, W) for R RoIs, R may be 0; mask logits (R, classes, 2H, 2W). The upsampling
    layer has no norm, as in the paper's models.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read ``cfg.MODEL.ROI_MASK_HEAD`` as Detectron2 does, with a callable norm."""
        args = super().from_config(cfg, input_shape)
        args["conv_norm"] = norm_from_cfg(cfg, cfg.MODEL.ROI_MASK_HEAD.NORM)
        return args
