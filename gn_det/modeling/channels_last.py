"""Models in PyTorch's channels_last memory format: ``MODEL.CHANNELS_LAST``.

In this format the C numbers of a pixel are neighbors in memory, which the matrix units of CPUs
(AMX, AVX512) and GPUs (tensor cores) need. If the input or the weight of a convolution is
channels_last, so is its output, and norms, ReLU, pooling and interpolation keep the format. Only
the input of a part of the model is copied. docs/notes/mixed_precision.md lists the copies that
remain.

Shapes:
    N: images or RoIs
    C: channels
    H, W: height and width
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.modeling.roi_heads import BaseMaskRCNNHead
from detectron2.structures import Instances
from torch import nn

__all__ = ["to_channels_last"]


def to_channels_last(module: nn.Module) -> None:
    """Convert a part of a model to channels_last, in place. A second call changes nothing.

    The weights of convolutions change their memory format, but not their shapes and values, so
    that state dicts fit contiguous models too. Inputs of shape (N, C, H, W) in another format are
    copied once. Deformable convolutions support only one format and are not changed.

    Args:
        module: A backbone, a head or another module. Its positional inputs may be tensors and
            other objects.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    if not any(hook in _HOOKS for hook in module._forward_pre_hooks.values()):
        module.register_forward_pre_hook(_hook_for(module))


def _hook_for(module: nn.Module) -> Callable[..., Any]:
    # TorchScript compiles hooks, and wants to know the types of forward's arguments
    if isinstance(module, BaseMaskRCNNHead):
        return _convert_rois
    if isinstance(module, StandardRPNHead):
        return _convert_levels
    return _convert_one if len(signature(module.forward).parameters) == 1 else _convert_inputs


def _convert_one(_module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (_convert(inputs[0]),)


def _convert_levels(
    _module: nn.Module, inputs: tuple[list[torch.Tensor]]
) -> tuple[list[torch.Tensor]]:
    return ([_convert(x) for x in inputs[0]],)


def _convert_rois(
    _module: nn.Module, inputs: tuple[torch.Tensor, list[Instances]]
) -> tuple[torch.Tensor, list[Instances]]:
    return _convert(inputs[0]), inputs[1]


def _convert_inputs(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_convert(x) if isinstance(x, torch.Tensor) else x for x in inputs)


def _convert(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


_HOOKS = (_convert_one, _convert_levels, _convert_rois, _convert_inputs)
