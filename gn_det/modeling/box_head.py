"""Box head with any norm: the paper's "4conv1fc" (section 4.2)."""

import torch
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead

from .head import GNHead

__all__ = ["GNFastRCNNConvFCHead"]


@ROI_BOX_HEAD_REGISTRY.register()
class GNFastRCNNConvFCHead(GNHead, FastRCNNConvFCHead):
    """Detectron2's box head, its convolutions followed by ``MODEL.ROI_BOX_HEAD.NORM``.

    Input (R, C, H, W) for R RoIs, R may be 0; output (R, ``FC_DIM``).
    """

    cfg_node = "ROI_BOX_HEAD"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the layers; ``MODEL.GN.MEMORY`` says what is kept for backward."""
        if self.active_mode() == "standard":
            return super().forward(x)
        # up to and with the first fully connected layer; what follows is small
        rest = list(self)[len(self.conv_norm_relus) :]
        x = self.forward_checkpointed(rest[:2], x)
        for layer in rest[2:]:
            x = layer(x)
        return x
