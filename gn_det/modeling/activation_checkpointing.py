"""What a model keeps for backward: ``MODEL.GN.MEMORY`` standard, lean or minimal.

A convolution with norm and ReLU keeps two tensors of its output's size: the convolution's output,
for the norm, and the ReLU's output, for the next convolution. FrozenBN keeps the second alone.

- *lean* keeps the first alone and makes the second again, by one norm and one ReLU. The last 1x1
  convolution of a bottleneck, its shortcut and the mask head's upsampling are made again as well,
  being cheap for what they hold.
- *minimal* keeps the inputs of blocks, pyramid and heads, and runs all of these again. Heads run
  again in the lean way, layer by layer: at once they would be the peak of the whole step.

The mechanism is PyTorch's own checkpoint around pieces that are cut *before* a convolution:
``norm, ReLU, next convolution``. It stops as soon as what backward asks for is there again, which
is the input of that convolution: the convolution itself is not run twice. Autocast, DDP, nested
use and freeing are its business, and it is there in every PyTorch from 2.3. docs/performance.md
has the measurement of what was tried beside it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
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


def recompute(function: Callable, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """Return ``function(*inputs)``, keeping for backward no tensor but the inputs.

    Args:
        function: without randomness and without side effects; it is run again in backward, up to
            the last tensor that backward needs.
        inputs: what it is a function of, besides parameters.
    """
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def tag_recomputable(function: Callable, x: torch.Tensor) -> torch.Tensor:
    """Return ``function(x)``, with a note for :func:`recomputing` of how it was made.

    For a tensor whose next user is out of reach of :func:`recompute`, being in another module.
    """
    y = function(x)
    if y is not x:
        y.tag_recomputable = partial(_without_graph, function, x.detach())
    return y


@contextmanager
def recomputing(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Let operations inside keep none of ``tensors`` that :func:`tag_recomputable` made.

    Args:
        tensors: those with a note are made again in backward, by what the note says; what their
            making keeps is kept anyway. Others are kept as ever.
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
    """Mixin for a module that trains in one of several ways."""

    memory = "standard"

    def active_mode(self) -> str:
        """Return the way that counts in this forward pass: none but training has one."""
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
    norms = [layer for part in parts or [module] for layer in part.modules() if is_norm(layer)]
    runs_once = any(has_statistics(norm) for norm in norms)
    gains_by_lean = any(True for norm in norms for _ in norm.parameters())
    if runs_once or (mode == "lean" and not gains_by_lean):
        mode = "standard"
    module.memory = mode


def checkpoint_conv_chain(
    convs: Sequence[nn.Module], rest: Iterable[nn.Module], x: torch.Tensor
) -> torch.Tensor:
    """Run ``convs`` one after the other, then ``rest``, keeping one tensor for each of ``convs``.

    Args:
        convs: Detectron2's ``Conv2d`` with norm and activation. May be empty.
        rest: what follows; all but its last layer is run again in backward.
        x: (R, C, H, W), R may be 0.
    """
    if not convs:
        return recompute(partial(_run, rest), x)
    x = convolve(convs[0], x)
    for before, conv in zip(convs, convs[1:]):
        x = recompute(partial(_norm_and_convolve, before, conv), x)
    return recompute(partial(_norm_and_run, convs[-1], rest), x)


def _run(layers: Iterable[nn.Module], x: torch.Tensor) -> torch.Tensor:
    given = x
    for layer in layers:
        # in place where x was made here: norms and convolutions do not need their outputs
        in_place = type(layer) is nn.ReLU and x is not given
        x = F.relu_(x) if in_place else layer(x)
    return x


def apply_norm_and_activation(conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Do what follows the convolution inside Detectron2's ``Conv2d``."""
    return _run([layer for layer in (conv.norm, conv.activation) if layer is not None], x)


def _norm_and_convolve(before: nn.Module, conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return convolve(conv, apply_norm_and_activation(before, x))


def _norm_and_run(before: nn.Module, layers: Iterable[nn.Module], x: torch.Tensor) -> torch.Tensor:
    return _run(layers, apply_norm_and_activation(before, x))
