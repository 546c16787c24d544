"""RoI heads of a C4 model: res5 runs on the features of each RoI (the paper's table 4)."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn

from .channels_last import to_channels_last
from .poolers import pooler_from_cfg
from .resnet import make_resnet_stage

__all__ = ["GNRes5ROIHeads", "build_res5"]


@ROI_HEADS_REGISTRY.register()
class GNRes5ROIHeads(Res5ROIHeads):
    """Detectron2's C4 heads with ``MODEL.RESNETS.NORM`` in res5, for any depth (18 and 34 too)."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return the arguments of the class that a config describes."""
        args = super().from_config(cfg, input_shape)
        features = [input_shape[name] for name in args["in_features"]]
        args["pooler"] = pooler_from_cfg(cfg.MODEL.ROI_BOX_HEAD, features)
        return args

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        # Detectron2 calls this; it returns res5 and the number of its output channels
        res5 = build_res5(cfg)
        last: CNNBlockBase = res5[-1]
        return res5, last.out_channels


def _res5_from_cfg(cfg: CfgNode) -> dict[str, Any]:
    return {**make_resnet_stage.from_config(cfg), "channels_last": cfg.MODEL.CHANNELS_LAST}


@configurable(from_config=_res5_from_cfg)
def build_res5(*, channels_last: bool = False, **stage: Any) -> nn.Sequential:
    """Build the blocks of res5, from arguments or as ``build_res5(cfg)``.

    Args:
        channels_last: Whether the blocks work in channels_last memory format.
        **stage: The arguments of :func:`gn_det.modeling.make_resnet_stage`, such as ``depth`` and
            ``norm``.
    """
    res5 = nn.Sequential(*make_resnet_stage(5, **stage))
    if channels_last:
        to_channels_last(res5)
    return res5
