"""Activation checkpointing for networks with GN: ``MODEL.GN.MEMORY`` standard, lean or minimal.

A convolution with norm and ReLU saves two tensors of its output's size for backward: the output of
the convolution, for the norm, and the output of the ReLU, for the next convolution. With FrozenBN
only the second one is saved.

- *lean* saves only the first one. Backward recomputes the second by one norm and one ReLU. It also
  recomputes the last 1x1 convolution of a bottleneck, the shortcut and the upsampling of the mask
  head, which are cheap compared to the memory of their outputs.
- *minimal* saves the inputs of blocks, FPN and heads, and recomputes everything in between. Heads
  are recomputed layer by layer, as in lean: all layers at once would be the step's memory peak.

The mechanism is PyTorch's ``torch.utils.checkpoint``, without reentrancy. A checkpointed piece of
lean mode is ``norm, ReLU, next convolution``. Recomputation stops as soon as it has the tensors
that backward needs. The last of these is the input of the convolution, so the convolution itself
does not run twice. Autocast, DDP, nesting and freeing are handled by PyTorch, from version
2.3 on. docs/notes/training_step.md compares this with other mechanisms.

Shapes:
    R: RoIs
    C: channels
    H, W: height and width
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import nn
from torch.utils.checkpoint import checkpoint

from gn_det.config import ConfigError

from .norms import has_statistics, is_norm
from .weight_standardization import convolve

__all__ = [
    "MEMORY_MODES",
    "ActivationCheckpointMixin",
    "apply_norm_and_activation",
    "check_memory_mode",
    "checkpoint_conv_chain",
    "recompute",
    "recomputing",
    "set_memory",
    "tag_recomputable",
]

MEMORY_MODES = ("standard", "lean", "minimal")

T = TypeVar("T")


def recompute(function: Callable[..., T], *inputs: torch.Tensor) -> T:
    """Return ``function(*inputs)``, and save only the inputs for backward.

    Args:
        function: A function without randomness and side effects. Backward runs it again, up to the
            last tensor that it needs.
        inputs: The tensors that the function depends on, besides parameters.
    """
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def tag_recomputable(
    function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
) -> torch.Tensor:
    """Return ``function(x)`` as a tensor that knows how to recompute itself.

    It is for a tensor whose next user is in another module, where :func:`recompute` cannot be
    used. The user runs inside of :func:`recomputing`.

    Args:
        function: A function without randomness and side effects.
        x: The input of the function. It is saved for backward.
    """
    y: Any = function(x)
    if y is not x:
        y.recompute_fn = partial(_without_graph, function, x.detach())
    return y


@contextmanager
def recomputing(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Within the block, save no tensor of :func:`tag_recomputable` for backward.

    Args:
        tensors: The inputs of the operations in the block. Backward recomputes those that are
            tagged. Others are saved as usual.
    """
    functions = {_storage(t): t.recompute_fn for t in tensors if hasattr(t, "recompute_fn")}

    def pack(tensor: torch.Tensor) -> torch.Tensor | Callable[[], torch.Tensor]:
        return functions.get(_storage(tensor), tensor)

    def unpack(packed: torch.Tensor | Callable[[], torch.Tensor]) -> torch.Tensor:
        return packed if isinstance(packed, torch.Tensor) else packed()

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack) if functions else nullcontext():
        yield


def _without_graph(
    function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
) -> torch.Tensor:
    with torch.no_grad():
        return function(x)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata  # unlike data_ptr() this works for meta tensors


class ActivationCheckpointMixin(nn.Module):
    """Mixin for a module that knows the modes of ``MODEL.GN.MEMORY``.

    It comes before the module's class in the bases.

    Attributes:
        memory: The mode in training, one of :data:`MEMORY_MODES`. See :func:`set_memory`.
    """

    memory = "standard"

    def active_mode(self) -> str:
        """Return the mode of this forward pass: ``memory`` in training, else ``"standard"``."""
        return self.memory if self.training and torch.is_grad_enabled() else "standard"


def check_memory_mode(mode: str) -> None:
    """Check that ``mode`` is one of :data:`MEMORY_MODES`.

    Raises:
        ConfigError: It is not.
    """
    if mode not in MEMORY_MODES:
        raise ConfigError(f"MODEL.GN.MEMORY is {mode!r}; known are {', '.join(MEMORY_MODES)}.")


def set_memory(
    module: ActivationCheckpointMixin, mode: str, parts: Iterable[nn.Module] | None = None
) -> None:
    """Set the mode of a module, as far as its norms allow.

    A module with a norm that updates statistics stays *standard*: run twice, the norm would update
    them twice. *lean* recomputes norms in place of saving their outputs, which pays if the norm has
    parameters that are trained: FrozenBN does not need its input in backward.

    Args:
        module: The module whose ``memory`` is set.
        mode: One of :data:`MEMORY_MODES`.
        parts: The layers that the module recomputes, or None for all of its layers.

    Raises:
        ConfigError: The mode is unknown.
    """
    check_memory_mode(mode)
    norms = [layer for part in parts or [module] for layer in part.modules() if is_norm(layer)]
    runs_once = any(has_statistics(norm) for norm in norms)
    gains_by_lean = any(True for norm in norms for _ in norm.parameters())
    if runs_once or (mode == "lean" and not gains_by_lean):
        mode = "standard"
    module.memory = mode


def checkpoint_conv_chain(
    convs: Sequence[Conv2d], rest: Sequence[Callable[..., Any]], x: torch.Tensor
) -> Any:
    """Run ``convs`` and then ``rest``, and save one tensor for each of ``convs`` for backward.

    Args:
        convs: Detectron2's ``Conv2d`` layers, with norm and activation. May be empty.
        rest: The layers that follow. All but the last are recomputed in backward.
        x: The input of the first layer, of shape (R, C, H, W). R may be 0.

    Returns:
        The output of the last layer.
    """
    if not convs:
        return recompute(partial(_run, rest), x)
    x = convolve(convs[0], x)
    for before, conv in zip(convs, convs[1:]):
        x = recompute(partial(_norm_and_convolve, before, conv), x)
    return recompute(partial(_norm_and_run, convs[-1], rest), x)


def _run(layers: Iterable[Callable[..., Any]], x: torch.Tensor) -> Any:
    first_input = x
    for layer in layers:
        # in place unless x comes from outside: norms and convolutions do not need their outputs
        in_place = type(layer) is nn.ReLU and x is not first_input
        x = F.relu_(x) if in_place else layer(x)
    return x


def apply_norm_and_activation(conv: Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Apply the norm and activation of a Detectron2 ``Conv2d`` to the convolution's output.

    Args:
        conv: The layer that holds norm and activation. Each may be None.
        x: The output of the layer's convolution, see :func:`.weight_standardization.convolve`.
    """
    return _run([layer for layer in (conv.norm, conv.activation) if layer is not None], x)


def _norm_and_convolve(before: Conv2d, conv: Conv2d, x: torch.Tensor) -> torch.Tensor:
    return convolve(conv, apply_norm_and_activation(before, x))


def _norm_and_run(before: Conv2d, layers: Iterable[Callable[..., Any]], x: torch.Tensor) -> Any:
    return _run(layers, apply_norm_and_activation(before, x))
