"""Mask head with any norm (section 4.2: GN on the mask head's convolutions).

Shapes:
    R: RoIs of all images
    C: channels
    H, W: height and width of a RoI's features
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import (
    MaskRCNNConvUpsampleHead,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import Instances

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
    forward_standard = renamed(MaskRCNNConvUpsampleHead.forward, "forward_standard")
    layers_standard = renamed(MaskRCNNConvUpsampleHead.layers, "layers_standard")

    # TorchScript infers what is returned
    def forward(  # type: ignore[no-untyped-def]
        self, x: torch.Tensor, instances: list[Instances]
    ):
        """Return the loss in training, otherwise the instances with their masks.

        Args:
            x: The features of the RoIs, of shape (R, C, H, W). R may be 0.
            instances: The RoIs of each image: with truth in training, otherwise with classes.
        """
        if torch.jit.is_scripting():
            return self.forward_standard(x, instances)
        x = self.layers(x)
        if not self.training:
            mask_rcnn_inference(x, instances)
            return instances
        with _any_algorithm():
            loss = mask_rcnn_loss(x, instances, self.vis_period)
        return {"loss_mask": loss * self.loss_weight}

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mask logits, and save for backward what ``MODEL.GN.MEMORY`` says."""
        if torch.jit.is_scripting():
            return self.layers_standard(x)
        mode = self.active_mode()
        if self.runs_whole(x, mode):
            return self.layers_standard(x)
        return self.forward_pieces(list(self), x, mode)


@contextmanager
def _any_algorithm() -> Iterator[None]:
    """Within the block, let ``torch.use_deterministic_algorithms`` be off.

    It makes torchvision's RoIAlign, which cuts out ``BitMasks``, a formula in Python that takes
    hundreds of GB on a GPU. The forward of its kernel, and those of the loss, are deterministic.
    """
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
