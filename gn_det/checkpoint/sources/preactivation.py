"""Pre-activation ResNets (ResNet v2): Google's BiT and timm's ``resnetv2_*``. Not supported.

Their blocks norm and activate before each convolution, and a norm follows the last stage.
Detectron2's ResNet does both the other way round, so its layers cannot compute the same with any
weights; they would need a backbone of their own.
"""

import re

import torch

from gn_det.checkpoint.converted_state import Converted
from gn_det.checkpoint.errors import WeightsError

__all__ = ["convert", "matches"]


def matches(state: dict[str, torch.Tensor]) -> bool:
    """Return whether the names are BiT's own, BiT's in PyTorch, or timm's."""
    block = "stages.0.blocks.0."
    return {f"{block}norm1.weight", f"{block}conv1.weight"} <= set(state) or any(
        re.match(r"(resnet/)?block\d+/unit\d+/|body\.block\d+\.unit\d+\.gn1\.", name)
        for name in state
    )


def convert(state: dict[str, torch.Tensor], about: str = "") -> Converted:
    """Refuse.

    Raises:
        WeightsError: Always.
    """
    raise WeightsError(
        "This is a pre-activation ResNet (BiT, ResNet v2). Its norms stand before its "
        "convolutions, which Detectron2's ResNet cannot compute; gn_det has no backbone for it. "
        "Weights with GN and Weight Standardization that fit are mmdetection's jhu/resnet50_gn_ws, "
        "jhu/resnet101_gn_ws, jhu/resnext50_32x4d_gn_ws and jhu/resnext101_32x4d_gn_ws."
    )
