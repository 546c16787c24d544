"""A box head of one's own: gn_det's, with dropout. The config names it MODEL.ROI_BOX_HEAD.NAME."""

import torch
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY

from gn_det.modeling import GNFastRCNNConvFCHead


@ROI_BOX_HEAD_REGISTRY.register()
class DropoutBoxHead(GNFastRCNNConvFCHead):
    """Input (R, C, H, W) for R RoIs; output (R, FC_DIM), a tenth of it dropped in training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features that boxes and classes are predicted from."""
        return torch.nn.functional.dropout(super().forward(x), 0.1, self.training)
