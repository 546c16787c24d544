"""RPN head that obeys ``MODEL.GN.MEMORY``."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY, StandardRPNHead

from .activation_checkpointing import ActivationCheckpointMixin, recompute, recomputing, set_memory
from .channels_last import to_channels_last

__all__ = ["GNRPNHead"]


@RPN_HEAD_REGISTRY.register()
class GNRPNHead(ActivationCheckpointMixin, StandardRPNHead):
    """Detectron2's RPN head; the paper's models have no norm in it either.

    Args:
        memory: The mode of :mod:`gn_det.modeling.activation_checkpointing`.
        channels_last: Whether to work in this layout, see :mod:`gn_det.modeling.channels_last`.
        **kwargs: The arguments of Detectron2's class.

    Input: features (N, C, H, W) of each level. Output: lists of (N, A, H, W) objectness logits and
    (N, 4A, H, W) anchor deltas, for A anchors a position.
    """

    @configurable
    def __init__(self, *, memory: str = "standard", channels_last: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        set_memory(self, memory)
        if channels_last:
            to_channels_last(self)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        """Translate a config into arguments."""
        args = super().from_config(cfg, input_shape)
        return {
            **args,
            "memory": cfg.MODEL.GN.MEMORY,
            "channels_last": cfg.MODEL.CHANNELS_LAST,
        }

    def forward(
        self, features: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return logits and deltas of each level.

        The outputs of a lean FPN are not kept for backward: its norms are recomputed. Those of a
        minimal FPN are kept, and the 3x3 convolution on them is recomputed.
        """
        if self.active_mode() == "minimal":
            logits, deltas = zip(*(recompute(self._level, x) for x in features))
            return list(logits), list(deltas)
        with recomputing(features):
            return super().forward(features)

    def _level(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (logits,), (deltas,) = super().forward([x])
        return logits, deltas
