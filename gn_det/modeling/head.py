"""What box head and mask head share: their options, from a config or as arguments."""

from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from torch import nn

from .activation_checkpointing import (
    ActivationCheckpointMixin,
    checkpoint_conv_chain,
    recompute,
    set_memory,
)
from .channels_last import to_channels_last
from .norms import norm_from_cfg
from .weight_standardization import standardize_convs

__all__ = ["GNHead"]


class GNHead(ActivationCheckpointMixin):
    """Mixin for a head of convolutions. It comes before Detectron2's class in the bases.

    Args:
        input_shape: The shape of the features of a RoI.
        weight_standardization: Whether to standardize the weights of the convolutions that a norm
            follows.
        memory: The mode of :mod:`gn_det.modeling.activation_checkpointing`.
        channels_last: Whether to work in this layout, see :mod:`gn_det.modeling.channels_last`.
        **kwargs: The arguments of Detectron2's class, such as ``conv_dims`` and ``conv_norm``.
    """

    cfg_node: str  # of the head's keys in ``cfg.MODEL``
    conv_norm_relus: list[Conv2d]

    def forward_checkpointed(self, rest: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
        """Run the convolutions, then ``rest``, keeping what lean or minimal keeps.

        Args:
            rest: The layers that follow the convolutions.
            x: The features (R, C, H, W) of R RoIs, R may be 0.
        """
        run = partial(checkpoint_conv_chain, self.conv_norm_relus, rest)
        return run(x) if self.memory == "lean" else recompute(run, x)

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        weight_standardization: bool = False,
        memory: str = "standard",
        channels_last: bool = False,
        **kwargs: Any,
    ):
        super().__init__(input_shape, **kwargs)  # type: ignore[call-arg]  # Detectron2's head
        assert isinstance(self, nn.Module)  # by Detectron2's class
        if weight_standardization:
            standardize_convs(self)
        set_memory(self, memory)
        if channels_last:
            to_channels_last(self)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read the head's keys as Detectron2 does, with the norms of ``MODEL.GN``."""
        args = super().from_config(cfg, input_shape)  # type: ignore[misc]  # Detectron2's head
        args["conv_norm"] = norm_from_cfg(cfg, cfg.MODEL[cls.cfg_node].NORM)
        args["weight_standardization"] = cfg.MODEL.GN.WEIGHT_STANDARDIZATION
        args["memory"] = cfg.MODEL.GN.MEMORY
        args["channels_last"] = cfg.MODEL.CHANNELS_LAST
        return args
