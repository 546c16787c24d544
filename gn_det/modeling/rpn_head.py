"""RPN head with activation checkpointing (``MODEL.GN.MEMORY``).

Shapes:
    N: images
    A: anchors per position
    C: channels
    H, W: height and width of a level
"""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY, StandardRPNHead

from .activation_checkpointing import (
    ActivationCheckpointMixin,
    recompute,
    recomputing,
    set_memory,
)
from .channels_last import to_channels_last
from .conv_norm_relu import all_modules
from .from_cfg import gn_config
from .scripting import renamed

__all__ = ["GNRPNHead"]


@RPN_HEAD_REGISTRY.register()
class GNRPNHead(ActivationCheckpointMixin, StandardRPNHead):
    """Detectron2's RPN head. It has no norm, as in the paper's models.

    Args:
        memory: The mode of activation checkpointing, one of
            :data:`gn_det.modeling.activation_checkpointing.MEMORY_MODES`.
        channels_last: Whether the head works in channels_last memory format.
        **kwargs: The arguments of Detectron2's class.
    """

    forward_standard = renamed(StandardRPNHead.forward, "forward_standard")

    @configurable
    def __init__(self, *, memory: str = "standard", channels_last: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        set_memory(self, memory)
        if channels_last:
            to_channels_last(self)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        """Return the arguments of the class that a config describes."""
        args = super().from_config(cfg, input_shape)
        return {
            **args,
            "memory": gn_config(cfg).MEMORY,
            "channels_last": cfg.MODEL.CHANNELS_LAST,
        }

    def forward(
        self, features: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return objectness logits (N, A, H, W) and anchor deltas (N, 4A, H, W) of each level.

        In lean mode the features are not saved for backward: they are recomputed by the norms of a
        lean FPN. In minimal mode they are saved, and the 3x3 convolution on them is recomputed.

        Args:
            features: The feature map of each level, of shape (N, C, H, W).
        """
        if torch.jit.is_scripting():
            return self.forward_standard(features)
        if self.active_mode() == "minimal":
            used = list(all_modules(self.children()))
            levels = [recompute(self._level, x, modules=used) for x in features]
            return [logits for logits, _ in levels], [deltas for _, deltas in levels]
        with recomputing(features):
            return self.forward_standard(features)

    def _level(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (logits,), (deltas,) = self.forward_standard([x])
        return logits, deltas
