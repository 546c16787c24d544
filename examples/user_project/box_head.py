"""A box head of your own: gn_det's with dropout. Set MODEL.ROI_BOX_HEAD.NAME to its name."""

import torch
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY

from gn_det.modeling import GNFastRCNNConvFCHead


@ROI_BOX_HEAD_REGISTRY.register()
class DropoutBoxHead(GNFastRCNNConvFCHead):
    """The input has shape (R, C, H, W) for R RoIs, the output (R, FC_DIM), with 10% dropout."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features from which boxes and classes are predicted."""
        return torch.nn.functional.dropout(super().forward(x), 0.1, self.training)
