"""Mask head with any norm (section 4.2: GN on the mask head's convolutions)."""

import torch
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead

from .head import GNHead

__all__ = ["GNMaskRCNNConvUpsampleHead"]


@ROI_MASK_HEAD_REGISTRY.register()
class GNMaskRCNNConvUpsampleHead(GNHead, MaskRCNNConvUpsampleHead):
    """Detectron2's mask head, its convolutions followed by ``MODEL.ROI_MASK_HEAD.NORM``.

    Input (R, C, H, W) for R RoIs, R may be 0; mask logits (R, classes, 2H, 2W). The upsampling
    layer has no norm, as in the paper's models.
    """

    cfg_node = "ROI_MASK_HEAD"

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of RoI features; ``MODEL.GN.MEMORY`` says what is kept."""
        if self.active_mode() == "standard":
            return super().layers(x)
        return self.forward_checkpointed(list(self)[len(self.conv_norm_relus) :], x)
