"""Features and convolutions in PyTorch's channels_last layout: ``MODEL.CHANNELS_LAST``.

In this layout the C numbers of a pixel lie side by side, as the matrix units of CPUs (AMX, AVX512)
and GPUs (tensor cores) want them. A convolution with input or weight in channels_last gives
channels_last, and so do norms, ReLU, pooling and interpolation: from the entry of a part on,
nothing has to be copied. What is still copied, and why, is in docs/performance.md.

Shapes: N images or RoIs, C channels, H x W pixels.
"""

from typing import Any

import torch
from torch import nn

__all__ = ["to_channels_last"]


def to_channels_last(module: nn.Module) -> None:
    """Let a part of a model work in channels_last, in place.

    The weights of its convolutions change their layout, not their shape or values: state dicts go
    to and from a contiguous model. Inputs of shape (N, C, H, W) that are in another layout are
    copied once, at the entry. Deformable convolutions, which know one layout, stay as they are.

    Args:
        module: A backbone, head or other part. Its inputs are tensors, or others, which stay as
            they are. A second call changes nothing.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    if _convert_inputs not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_convert_inputs)


def _convert_inputs(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        x.contiguous(memory_format=torch.channels_last)
        if isinstance(x, torch.Tensor) and x.dim() == 4
        else x
        for x in inputs
    )
