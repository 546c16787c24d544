"""RoI heads of a model with FPN."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import StandardROIHeads
from torch.jit import Final

from .poolers import pooler_from_cfg

__all__ = ["GNStandardROIHeads"]


@ROI_HEADS_REGISTRY.register()
class GNStandardROIHeads(StandardROIHeads):
    """Detectron2's RoI heads with gn_det's :class:`~gn_det.modeling.poolers.ROIPooler`."""

    # for TorchScript: annotations of a base class do not count
    __annotations__ = {"mask_on": Final[bool], "keypoint_on": Final[bool]}

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return the arguments of the class that a config describes."""
        args = super().from_config(cfg, input_shape)
        features = [input_shape[name] for name in cfg.MODEL.ROI_HEADS.IN_FEATURES]
        for head in ("box", "mask", "keypoint"):
            if f"{head}_pooler" in args:
                node = cfg.MODEL[f"ROI_{head.upper()}_HEAD"]
                args[f"{head}_pooler"] = pooler_from_cfg(node, features)
        return args
