"""Box head with any norm: the paper's "4conv1fc" (section 4.2).

Shapes:
    R: RoIs of all images
    C: channels
    H, W: height and width of a RoI's features
"""

import torch
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead
from torch import nn

from .head import GNHead
from .scripting import renamed

__all__ = ["GNFastRCNNConvFCHead"]


@ROI_BOX_HEAD_REGISTRY.register()
class GNFastRCNNConvFCHead(GNHead, FastRCNNConvFCHead):
    """Detectron2's box head with ``MODEL.ROI_BOX_HEAD.NORM`` after its convolutions.

    The input has shape (R, C, H, W), where R may be 0, the output has shape (R, ``FC_DIM``).
    """

    cfg_node = "ROI_BOX_HEAD"
    forward_standard = renamed(FastRCNNConvFCHead.forward, "forward_standard")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the layers, and save for backward what ``MODEL.GN.MEMORY`` says."""
        if torch.jit.is_scripting():
            return self.forward_standard(x)
        mode = self.active_mode()
        if self.runs_whole(x, mode):
            return self.forward_standard(x)
        # checkpointed up to the first fully connected layer: the tensors after it are small
        layers: list[nn.Module] = list(self)
        checkpointed = len(self.conv_norm_relus) + 2
        x = self.forward_pieces(layers[:checkpointed], x, mode)
        for layer in layers[checkpointed:]:
            x = layer(x)
        return x
