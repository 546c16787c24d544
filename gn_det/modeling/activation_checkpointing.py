"""What training keeps for backward: ``MODEL.GN.MEMORY`` standard, lean or minimal.

A convolution with norm and ReLU keeps two tensors of its output's size: the convolution's output,
for the norm, and the ReLU's output, for the next convolution. FrozenBN keeps the second alone.

- *lean* keeps the first alone and recomputes the second, by one norm and one ReLU. The last 1x1
  convolution of a bottleneck, its shortcut and the mask head's upsampling are recomputed as well:
  they are cheap for what they hold.
- *minimal* keeps the inputs of blocks, pyramid and heads, and recomputes all of these. Heads are
  recomputed in the lean way, layer by layer: at once they would be the peak of the whole step.

The mechanism is PyTorch's own activation checkpointing, around pieces that are cut *before* a
convolution: ``norm, ReLU, next convolution``. Recomputing stops as soon as it has what backward
asks for, which is the input of that convolution: the convolution itself is not run twice. PyTorch
takes care of autocast, DDP, nested use and freeing, from 2.3 on. docs/performance.md compares it
with what else was tried.
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

Output = TypeVar("Output")


def recompute(function: Callable[..., Output], *inputs: torch.Tensor) -> Output:
    """Return ``function(*inputs)``, keeping for backward no tensor but the inputs.

    Args:
        function: A function without randomness and without side effects. Backward runs it again,
            up to the last tensor that backward needs.
        *inputs: The tensors that it is a function of, besides parameters.
    """
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def tag_recomputable(function: Callable, x: torch.Tensor) -> torch.Tensor:
    """Return ``function(x)``, with a note for :func:`recomputing` of how to compute it.

    For a tensor that another module uses next, out of reach of :func:`recompute`.

    Args:
        function: A function without randomness and without side effects.
        x: Its input, of any shape.
    """
    y = function(x)
    if y is not x:
        # read by recomputing()
        y.tag_recomputable = partial(_without_graph, function, x.detach())
    return y


@contextmanager
def recomputing(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Let the operations inside keep none of the tensors that have a note.

    Args:
        tensors: The inputs of the operations. Backward recomputes those that
            :func:`tag_recomputable` has returned; the others are kept as ever.
    """
    notes = {_storage(t): t.tag_recomputable for t in tensors if hasattr(t, "tag_recomputable")}

    def pack(tensor: torch.Tensor) -> torch.Tensor | Callable[[], torch.Tensor]:
        return notes.get(_storage(tensor), tensor)

    def unpack(packed: torch.Tensor | Callable[[], torch.Tensor]) -> torch.Tensor:
        return packed if isinstance(packed, torch.Tensor) else packed()

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack) if notes else nullcontext():
        yield


def _without_graph(function: Callable, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return function(x)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata  # unlike data_ptr, of use for meta tensors too


class ActivationCheckpointMixin:
    """Mixin for a module that obeys ``MODEL.GN.MEMORY``. It comes first in the bases."""

    memory = "standard"
    training: bool  # of nn.Module, as all of these modules are
    modules: Callable[[], Iterator[nn.Module]]

    def active_mode(self) -> str:
        """Return the mode of this forward pass, which is standard unless it trains."""
        return self.memory if self.training and torch.is_grad_enabled() else "standard"


def check_memory_mode(mode: str) -> None:
    """Check that ``mode`` is one of :data:`MEMORY_MODES`.

    Raises:
        ConfigError: It is not.
    """
    if mode not in MEMORY_MODES:
        raise ConfigError(f"MODEL.GN.MEMORY is {mode!r}; known are {', '.join(MEMORY_MODES)}.")


def set_memory(
    module: ActivationCheckpointMixin,
    mode: str,
    parts: Iterable[nn.Module | ActivationCheckpointMixin] | None = None,
) -> None:
    """Let a module keep for backward what ``mode`` says, as far as its norms allow.

    A module with a norm that updates statistics stays in standard: run twice, the norm would update
    them twice. *lean* runs norms twice in place of keeping their input, which pays for those with
    parameters that are trained: FrozenBN has no need of its input.

    Args:
        module: The module, which is changed in place.
        mode: One of :data:`MEMORY_MODES`.
        parts: The layers that the module runs twice; by default all of its own.

    Raises:
        ConfigError: The mode is unknown.
    """
    check_memory_mode(mode)
    layers = [layer for part in parts or [module] for layer in part.modules()]
    norms = [layer for layer in layers if is_norm(layer)]
    runs_once = any(has_statistics(norm) for norm in norms)
    gains_by_lean = any(True for norm in norms for _ in norm.parameters())
    if runs_once or (mode == "lean" and not gains_by_lean):
        mode = "standard"
    module.memory = mode


def checkpoint_conv_chain(
    convs: Sequence[Conv2d], rest: Iterable[Callable[..., Any]], x: torch.Tensor
) -> Any:
    """Run convolutions one after the other, then the rest, keeping one tensor a convolution.

    Args:
        convs: Detectron2's ``Conv2d`` with norm and activation. May be empty.
        rest: The layers that follow; backward recomputes all but the last one.
        x: The features (R, C, H, W), R may be 0.

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
    given = x
    for layer in layers:
        # in place where x was computed here: norms and convolutions do not need their outputs
        in_place = type(layer) is nn.ReLU and x is not given
        x = F.relu_(x) if in_place else layer(x)
    return x


def apply_norm_and_activation(conv: Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Do what follows the convolution inside Detectron2's ``Conv2d``."""
    return _run([layer for layer in (conv.norm, conv.activation) if layer is not None], x)


def _norm_and_convolve(before: Conv2d, conv: Conv2d, x: torch.Tensor) -> torch.Tensor:
    return convolve(conv, apply_norm_and_activation(before, x))


def _norm_and_run(before: Conv2d, layers: Iterable[Callable[..., Any]], x: torch.Tensor) -> Any:
    return _run(layers, apply_norm_and_activation(before, x))
