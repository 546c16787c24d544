"""Mask head with any norm (section 4.2: GN on the mask head's convolutions).

Shapes:
    R: RoIs of all images
    C: channels
    H, W: height and width of a RoI's features
"""

import torch
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead

from .head import GNHead
from .scripting import renamed

__all__ = ["GNMaskRCNNConvUpsampleHead"]


@ROI_MASK_HEAD_REGISTRY.register()
class GNMaskRCNNConvUpsampleHead(GNHead, MaskRCNNConvUpsampleHead):
    """Detectron2's mask head with ``MODEL.ROI_MASK_HEAD.NORM`` after its convolutions.

    The input has shape (R, C, H, W), where R may be 0, the mask logits have shape
    (R, classes, 2H, 2W). The upsampling layer has no norm, as in the paper's models.
    """

    cfg_node = "ROI_MASK_HEAD"
    layers_standard = renamed(MaskRCNNConvUpsampleHead.layers, "layers_standard")

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mask logits, and save for backward what ``MODEL.GN.MEMORY`` says."""
        if torch.jit.is_scripting():
            return self.layers_standard(x)
        mode = self.active_mode()
        if self.runs_whole(x, mode):
            return self.layers_standard(x)
        return self.forward_pieces(list(self), x, mode)
