"""The parts that box head and mask head share.

Shapes:
    R: RoIs of all images
    C: channels
    H, W: height and width of a RoI's features
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from torch import nn

from .activation_checkpointing import ActivationCheckpointMixin, recompute, set_memory
from .channels_last import to_channels_last
from .conv_norm_relu import all_modules, can_fuse, run_conv_chain, run_now
from .norms import NormBuilder, as_builder, norm_from_cfg
from .weight_standardization import standardize_convs

if TYPE_CHECKING:  # the methods that both of Detectron2's heads have
    from detectron2.modeling.roi_heads import FastRCNNConvFCHead as Detectron2Head
else:
    Detectron2Head = nn.Module

__all__ = ["GNHead"]


class GNHead(ActivationCheckpointMixin, Detectron2Head):
    """Mixin for a head of convolutions. It comes before Detectron2's class in the bases.

    Args:
        input_shape: The shape of a RoI's features.
        conv_norm: The norm of the convolutions: a callable ``channels -> nn.Module``, or a name;
            "" for none.
        weight_standardization: Whether the weights of convolutions with a norm are standardized.
        memory: The mode of activation checkpointing, one of
            :data:`gn_det.modeling.activation_checkpointing.MEMORY_MODES`.
        channels_last: Whether the head works in channels_last memory format.
        **kwargs: The arguments of Detectron2's class, such as ``conv_dims``.

    Attributes:
        cfg_node: The name of the head's node in ``cfg.MODEL``, such as ``"ROI_BOX_HEAD"``.
    """

    cfg_node = ""
    if TYPE_CHECKING:
        conv_norm_relus: list[Conv2d]

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_norm: NormBuilder = "",
        weight_standardization: bool = False,
        memory: str = "standard",
        channels_last: bool = False,
        **kwargs: Any,
    ):
        super().__init__(input_shape, conv_norm=as_builder(conv_norm), **kwargs)
        if weight_standardization:
            standardize_convs(self)
        set_memory(self, memory)
        if channels_last:
            to_channels_last(self)

    def forward_pieces(self, layers: list[nn.Module], x: torch.Tensor, mode: str) -> torch.Tensor:
        """Run layers in pieces, which lean and minimal mode recompute in backward.

        Args:
            layers: The convolutions of the head, and what follows them.
            x: The features of the RoIs, of shape (R, C, H, W). R may be 0.
            mode: The mode of this forward pass.
        """
        num_convs = len(self.conv_norm_relus)  # a list of its own, which others may forget
        run = run_now if mode == "standard" else recompute
        chain = partial(run_conv_chain, layers[:num_convs], layers[num_convs:], run=run)
        return recompute(chain, x, modules=all_modules(layers)) if mode == "minimal" else chain(x)

    def runs_whole(self, x: torch.Tensor, mode: str) -> bool:
        """Return whether Detectron2's own forward is best: it saves all, and no kernel is fused."""
        return mode == "standard" and not can_fuse(self.children(), x)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return the arguments of the class that a config describes."""
        args = super().from_config(cfg, input_shape)
        args["conv_norm"] = norm_from_cfg(cfg, cfg.MODEL[cls.cfg_node].NORM)
        args["weight_standardization"] = cfg.MODEL.GN.WEIGHT_STANDARDIZATION
        args["memory"] = cfg.MODEL.GN.MEMORY
        args["channels_last"] = cfg.MODEL.CHANNELS_LAST
        return args
