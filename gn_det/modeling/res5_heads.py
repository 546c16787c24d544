"""RoI heads of a C4 model: res5 is run on each RoI (paper's table 4)."""

from detectron2.config import CfgNode
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn

from .resnet import make_resnet_stage

__all__ = ["GNRes5ROIHeads"]


@ROI_HEADS_REGISTRY.register()
class GNRes5ROIHeads(Res5ROIHeads):
    """Detectron2's C4 heads, with ``MODEL.RESNETS.NORM`` in res5 and any depth, 18 and 34 too."""

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        # Detectron2's hook for this very purpose; it returns res5 and its output channels
        blocks = make_resnet_stage(cfg, stage=5)
        return nn.Sequential(*blocks), blocks[-1].out_channels
