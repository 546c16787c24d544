"""Detectron2's convolution layers in two halves: the convolution, then norm, sum and ReLU.

Detectron2's ``Conv2d`` holds its norm, and often its ReLU. Activation checkpointing saves the
tensor between the halves alone. Where the Triton kernels run, the second half is one kernel. The
same pieces of a block or head serve both: :func:`recompute` runs them in lean mode, and
:func:`run_now` where nothing is recomputed.

Shapes:
    N: images
    R: RoIs
    C: channels
    H, W: height and width
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

from gn_det.layers import GroupNorm
from gn_det.layers.group_norm import group_norm, has_kernel
from gn_det.layers.kept_statistics import Statistics, keeping_statistics, reusing

from .activation_checkpointing import has_hooks, recompute, recomputing, tag
from .weight_standardization import StandardizedConv2d, convolve

__all__ = [
    "RELU",
    "add_and_activate",
    "all_modules",
    "apply_convolution",
    "apply_norm_and_activation",
    "can_fuse",
    "convolution_of",
    "norm_and_activation_of",
    "norm_then_convolve",
    "run_conv_chain",
    "run_now",
]

# layers whose gradients do not need their outputs, so that a ReLU may follow in place
OUTPUT_NOT_SAVED = (GroupNorm, nn.GroupNorm, FrozenBatchNorm2d, nn.ConvTranspose2d, nn.Linear)

RELU = (nn.ReLU(),)  # Detectron2's blocks have theirs outside of their convolutions


def can_fuse(layers: Iterable[nn.Module], x: torch.Tensor) -> bool:
    """Return whether pieces of layers can run in place of the layers, by fused kernels.

    They cannot if somebody wants to see the layers run: by a hook, or by a forward of their own.

    Args:
        layers: The layers whose pieces would run, each without its children.
        x: The input of the first one.
    """
    return has_kernel(x) and not any(
        has_hooks(layer) or "forward" in vars(layer) for layer in layers
    )


def run_now(
    piece: Callable[..., Any], *inputs: torch.Tensor, modules: Iterable[nn.Module] = ()
) -> Any:
    """Return ``piece(*inputs)``: what runs a piece in place of ``recompute``."""
    return piece(*inputs)


def run_conv_chain(
    convs: Sequence[Conv2d],
    rest: Sequence[nn.Module | Callable[..., Any]],
    x: torch.Tensor,
    run: Callable[..., Any],
) -> Any:
    """Run ``convs`` and then ``rest``, in pieces that each begin after a convolution.

    Args:
        convs: Detectron2's ``Conv2d`` layers, with norm and activation, or layers in their place.
            May be empty.
        rest: The layers that follow.
        x: The input of the first layer, of shape (R, C, H, W). R may be 0.
        run: The function that runs a piece. ``recompute`` saves one tensor for each of ``convs``,
            and recomputes all but the last layer in backward.

    Returns:
        The output of the last layer.
    """
    after = all_modules(layer for layer in rest if isinstance(layer, nn.Module))
    if not convs:
        return run(partial(_run_layers, rest), x, modules=after)
    x = apply_convolution(convs[0], x)
    for before, conv in zip(convs, convs[1:]):
        x = norm_then_convolve(before, conv, x, run)
    last = convs[-1]
    run_rest = partial(apply_norm_and_activation, last, rest=rest)
    return run(run_rest, x, modules=chain(norm_and_activation_of(last), after))


def all_modules(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Return layers with all modules in them."""
    return (module for layer in layers for module in layer.modules())


def convolution_of(conv: nn.Module) -> Iterator[nn.Module]:
    """Return the modules that :func:`apply_convolution` uses."""
    return iter((conv,)) if _can_split(conv) else conv.modules()


def norm_and_activation_of(conv: nn.Module) -> Iterator[nn.Module]:
    """Return the modules that :func:`apply_norm_and_activation` uses."""
    return all_modules(conv.children()) if _can_split(conv) else iter(())


def apply_convolution(conv: Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Return the output of a layer's convolution, without its norm and activation.

    Args:
        conv: Detectron2's ``Conv2d``, or a layer in its place, which is run as a whole.
        x: The input of shape (N, C, H, W). N may be 0.
    """
    return convolve(conv, x) if _can_split(conv) else conv(x)


def apply_norm_and_activation(
    conv: Conv2d, x: torch.Tensor, rest: Iterable[Callable[..., Any]] = ()
) -> Any:
    """Apply the norm and activation of a layer to the output of :func:`apply_convolution`.

    Args:
        conv: The layer that holds norm and activation. Each may be None.
        x: The output of the layer's convolution.
        rest: The layers that follow.
    """
    return _run_layers(_second_half(conv, rest), x)


def norm_then_convolve(
    before: Conv2d,
    conv: Conv2d,
    x: torch.Tensor,
    run: Callable[..., Any],
    activation: Sequence[nn.Module] = (),
) -> torch.Tensor:
    """Run the second half of a layer, and then the convolution of the next one.

    In lean mode the tensor in between is not saved. If a kernel makes it, the kernel alone runs
    again in backward, which takes the host much less time than :func:`recompute`.

    Args:
        before: The layer whose norm and activation are applied.
        conv: The next layer.
        x: The output of the convolution of ``before``.
        run: The function that runs a piece.
        activation: An activation outside of ``before``.
    """
    second_half = _second_half(before, activation)
    # the weight that StandardizedConv2d computes would be saved
    one_kernel = type(conv) is Conv2d and _is_one_kernel(second_half, x)
    if run is recompute and one_kernel and not torch.compiler.is_compiling():
        y = _recomputable(second_half, x)
        weight = _recomputable_cast(conv.weight, y.dtype)
        with recomputing([y, weight]):
            return conv._conv_forward(y, weight, conv.bias)

    def piece(x: torch.Tensor) -> torch.Tensor:
        return apply_convolution(conv, apply_norm_and_activation(before, x, activation))

    used = chain(norm_and_activation_of(before), convolution_of(conv))
    return run(piece, x, modules=used)


def add_and_activate(
    conv: Conv2d, x: torch.Tensor, shortcut: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """Return ``relu(norm(x) + shortcut())``, the end of a residual block.

    Args:
        conv: The last convolution of the block. Its norm may be None.
        x: The output of :func:`apply_convolution` for it. It is not changed.
        shortcut: A function that returns what is added.
    """
    if _can_split(conv) and conv.activation is None and _is_fused(conv.norm, x):
        return _normalize(conv.norm, x, relu=True, residual=shortcut())
    out = apply_norm_and_activation(conv, x)
    out = out + shortcut() if out is x else out.add_(shortcut())
    return F.relu_(out)


def _second_half(conv: Conv2d, rest: Iterable[Callable[..., Any]]) -> list[Callable[..., Any]]:
    own = (conv.norm, conv.activation) if _can_split(conv) else ()
    return [layer for layer in (*own, *rest) if layer is not None]


def _is_one_kernel(layers: Sequence[Any], x: torch.Tensor) -> bool:
    norm, *after = layers or [None]
    return _is_fused(norm, x) and (not after or (len(after) == 1 and _is_plain(after[0], nn.ReLU)))


def _recomputable(layers: Sequence[Any], x: torch.Tensor) -> torch.Tensor:
    """Return the output of layers that are one kernel, which knows how to run the kernel again."""
    norm, kept = layers[0], list[Statistics]()
    with keeping_statistics(kept):
        y = _run_layers(layers, x)

    def again(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        with reusing(kept):
            return group_norm(x, norm.num_groups, weight, bias, norm.eps, relu=len(layers) > 1)

    _tag_made_from([x, norm.weight, norm.bias], again, y)
    return y


def _recomputable_cast(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a weight in the dtype that autocast would give it, which is not kept for backward."""
    cast = weight.to(dtype)
    if cast is not weight:
        _tag_made_from([weight], lambda weight: weight.to(dtype), cast)
    return cast


def _tag_made_from(
    inputs: Sequence[torch.Tensor], function: Callable[..., torch.Tensor], y: torch.Tensor
) -> None:
    node = _Holder.apply(*inputs).grad_fn
    if node is None:
        return  # nothing here is trained

    def again() -> torch.Tensor:
        with torch.no_grad():
            return function(*node.saved_tensors)

    tag(y, again)


class _Holder(torch.autograd.Function):
    """A node that holds tensors as autograd does: changes are seen, outer checkpoints obeyed."""

    @staticmethod
    def forward(ctx: Any, *tensors: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*tensors)
        return tensors[0].new_empty(0)

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> None:
        raise AssertionError("nothing depends on this node")


def _run_layers(layers: Iterable[Callable[..., Any]], x: torch.Tensor) -> Any:
    before: Any = None
    waiting: list[Any] = [*layers]
    while waiting:
        layer, *waiting = waiting
        if _is_fused(layer, x):
            relu = bool(waiting) and _is_plain(waiting[0], nn.ReLU)
            x = _normalize(layer, x, relu=relu)
            waiting = waiting[relu:]
        elif _is_plain(layer, nn.ReLU) and _may_change_output(before):
            x = F.relu_(x)
        else:
            x = layer(x)
        before = layer
    return x


def _can_split(conv: nn.Module) -> bool:
    # a subclass or a wrapper (LoRA, a parametrization) may do something else
    return type(conv) in (Conv2d, StandardizedConv2d)


def _is_plain(layer: Any, kind: type[nn.Module]) -> bool:
    """Return whether a call of the layer is a call of its class's forward, and no more."""
    return type(layer) is kind and not has_hooks(layer) and "forward" not in vars(layer)


def _may_change_output(layer: Any) -> bool:
    """Return whether an in-place ReLU may follow a layer: a hook may have kept the output."""
    return type(layer) in OUTPUT_NOT_SAVED and _is_plain(layer, type(layer))


def _is_fused(norm: Any, x: torch.Tensor) -> bool:
    return _is_plain(norm, GroupNorm) and has_kernel(x)


def _normalize(norm: GroupNorm, x: torch.Tensor, **after: Any) -> torch.Tensor:
    return group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, **after)
