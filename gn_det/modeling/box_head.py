"""Box head with any norm: the paper's "4conv1fc" (section 4.2)."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead

from .norms import norm_from_cfg
from .weight_standardization import standardize_convs

__all__ = ["GNFastRCNNConvFCHead"]


@ROI_BOX_HEAD_REGISTRY.register()
class GNFastRCNNConvFCHead(FastRCNNConvFCHead):
    """Detectron2's box head, its convolutions followed by ``MODEL.ROI_BOX_HEAD.NORM``.

    Input (R, C, H, W) for R RoIs, R may be 0; output (R, ``FC_DIM``).

    Args:
        input_shape: of the features of a RoI.
        weight_standardization: standardize the weights of the convolutions that a norm follows.
        **kwargs: Detectron2's own, such as ``conv_dims`` and ``conv_norm``.
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, weight_standardization: bool = False, **kwargs: Any
    ):
        super().__init__(input_shape, **kwargs)
        if weight_standardization:
            standardize_convs(self)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read ``cfg.MODEL.ROI_BOX_HEAD`` as Detectron2 does, with the norms of ``MODEL.GN``."""
        args = super().from_config(cfg, input_shape)
        args["conv_norm"] = norm_from_cfg(cfg, cfg.MODEL.ROI_BOX_HEAD.NORM)
        args["weight_standardization"] = cfg.MODEL.GN.WEIGHT_STANDARDIZATION
        return args
