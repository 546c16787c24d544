"""RoI heads of a C4 model: res5 is run on each RoI (paper's table 4)."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn

from .channels_last import to_channels_last
from .poolers import pooler_from_cfg
from .resnet import make_resnet_stage

__all__ = ["GNRes5ROIHeads"]


@ROI_HEADS_REGISTRY.register()
class GNRes5ROIHeads(Res5ROIHeads):
    """Detectron2's C4 heads, with ``MODEL.RESNETS.NORM`` in res5 and any depth, 18 and 34 too."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Translate a config into the arguments of Detectron2's class."""
        args = super().from_config(cfg, input_shape)
        features = [input_shape[name] for name in args["in_features"]]
        args["pooler"] = pooler_from_cfg(cfg.MODEL.ROI_BOX_HEAD, features)
        return args

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        # Detectron2's hook for this very purpose; it returns res5 and its output channels
        res5 = build_res5(cfg)
        return res5, int(res5[-1].out_channels)  # type: ignore[arg-type]  # a block's


def build_res5(cfg: CfgNode) -> nn.Sequential:
    """Build res5 as a part of its own; see :func:`gn_det.modeling.make_resnet_stage`."""
    res5 = nn.Sequential(*make_resnet_stage(cfg, stage=5))
    if cfg.MODEL.CHANNELS_LAST:
        to_channels_last(res5)
    return res5
