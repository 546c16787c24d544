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

Where Triton kernels run, norms keep their statistics, and one kernel recomputes norm and ReLU
(:mod:`.conv_norm_relu`).

Shapes:
    R: RoIs
    C: channels
    H, W: height and width
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar, cast

import torch
from detectron2.layers import Conv2d, DeformConv, FrozenBatchNorm2d, ModulatedDeformConv
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from gn_det.config import ConfigError
from gn_det.layers import GroupNorm
from gn_det.layers.kept_statistics import Statistics, keeping_statistics, reusing

from .norms import has_statistics, is_norm
from .weight_standardization import StandardizedConv2d

__all__ = [
    "MEMORY_MODES",
    "ActivationCheckpointMixin",
    "check_memory_mode",
    "has_hooks",
    "ignoring_hooks",
    "recompute",
    "recomputing",
    "set_memory",
    "tag",
    "tag_recomputable",
    "why_once",
]

MEMORY_MODES = ("standard", "lean", "minimal")

T = TypeVar("T")
logger = logging.getLogger(__name__)

# a module, and a copy of its attributes
State = tuple[nn.Module, dict[str, Any]]

# PyTorch's hooks on all modules
GLOBAL_HOOKS: tuple[dict[int, Callable[..., Any]], ...] = (
    *(torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks),
    *(torch_module._global_backward_hooks, torch_module._global_backward_pre_hooks),
)

# what torch.nn.Module changes in place, where a call looks
MODULE_DICTS = (
    *("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"),
    *("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks"),
)

# layers that give the same output each time they run, and change nothing
DETERMINISTIC = {
    *(Conv2d, StandardizedConv2d, DeformConv, ModulatedDeformConv, nn.ConvTranspose2d, nn.Linear),
    *(GroupNorm, nn.GroupNorm, FrozenBatchNorm2d, nn.ReLU, nn.Flatten),
}


def recompute(
    function: Callable[..., T], *inputs: torch.Tensor, modules: Iterable[nn.Module] = ()
) -> T:
    """Return ``function(*inputs)``, and save only the inputs for backward.

    Backward runs the function again, up to the last tensor that it needs. The modules then are what
    they are now: they have the parameters, buffers, hooks, children and other attributes of the
    first pass, also where others took their place (``torch.func.functional_call``, ``eval()``, a
    hook that is new). If a parameter was changed in place, backward raises PyTorch's error.

    Args:
        function: A function without side effects.
        inputs: The tensors that the function depends on, besides parameters and buffers.
        modules: The modules that the function uses, each without its children, and no others: an
            optimizer may change others in the same backward. If all modules are of
            :data:`DETERMINISTIC` classes, the states of random number generators are not saved.
    """
    modules = list(modules)
    random = not _is_deterministic(modules)
    run = partial(checkpoint, use_reentrant=False, preserve_rng_state=random)
    if torch.compiler.is_compiling():
        return run(function, *inputs)  # the graph holds parameters and buffers as inputs
    states, count = _states(modules), len(inputs)
    used = [*inputs, *_tensors(states)]
    trained = [tensor.requires_grad for tensor in used]
    if modules and not any(trained):
        return function(*inputs)  # backward does not come here: the stem, where it is frozen
    kept: list[Statistics] = []
    is_first_run = True

    def run_with(*tensors: torch.Tensor) -> T:
        nonlocal is_first_run
        if is_first_run:
            is_first_run = False
            with keeping_statistics(kept):
                return function(*tensors[:count])
        tensors = tuple(map(_with_requires_grad, tensors, trained))
        with _restored(states, tensors[count:]), reusing(kept):
            return function(*tensors[:count])

    return run(run_with, *used)


def tag_recomputable(
    function: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    modules: Iterable[nn.Module] = (),
) -> torch.Tensor:
    """Return ``function(x)`` as a tensor that knows how to recompute itself.

    It is for a tensor whose next user is in another module, where :func:`recompute` cannot be
    used. The user runs inside of :func:`recomputing`.

    Args:
        function: A function without side effects.
        x: The input of the function. It is saved for backward.
        modules: The modules that the function uses, each without its children. Their parameters
            and buffers are copied: FSDP frees them before the other module's backward. They should
            be small.
    """
    modules = list(modules)
    if torch.compiler.is_compiling() or not _is_deterministic(modules):
        return function(x)  # saved as usual
    kept: list[Statistics] = []
    with keeping_statistics(kept):
        y = function(x)
    if y is x:
        return y
    states = _states(modules)
    copies = [tensor.detach().clone() for tensor in _tensors(states)]
    tag(y, partial(_without_graph, function, x.detach(), states, copies, kept))
    return y


def tag(tensor: torch.Tensor, function: Callable[[], torch.Tensor]) -> None:
    """Let a tensor know that a function makes it again, for :func:`recomputing`."""
    tagged: Any = tensor
    tagged.recompute_fn = function
    tagged.recompute_place = _place(tensor), tensor._version


@contextmanager
def recomputing(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Within the block, save no tensor of :func:`tag_recomputable` for backward.

    Args:
        tensors: The inputs of the operations in the block. Backward recomputes those that are
            tagged and were not changed in place. Others, and views, are saved as usual.
    """
    functions = {
        _place(tensor): tensor.recompute_fn
        for tensor in cast(Iterable[Any], tensors)
        if hasattr(tensor, "recompute_place")  # a tensor of inference_mode has no version
        and tensor.recompute_place == (_place(tensor), tensor._version)
    }

    def pack(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        # detached, for an output would hold its own graph: a leak if no backward follows
        as_saved = partial(_unchanged, tensor.detach(), tensor._version)
        return functions.get(_place(tensor), as_saved)

    def unpack(packed: Callable[[], torch.Tensor]) -> torch.Tensor:
        return packed()

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack) if functions else nullcontext():
        yield


def _unchanged(tensor: torch.Tensor, version: int) -> torch.Tensor:
    # PyTorch itself does not look where there are hooks
    if tensor._version != version:
        raise RuntimeError(
            "A tensor that backward needs has been modified by an inplace operation. It has the "
            f"shape {tuple(tensor.shape)} and is at version {tensor._version}, not {version}."
        )
    return tensor


def _without_graph(
    function: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    states: list[State],
    tensors: Sequence[torch.Tensor],
    kept: list[Statistics],
) -> torch.Tensor:
    with torch.no_grad(), _restored(states, tensors), reusing(kept):
        return function(x)


def _is_deterministic(modules: Iterable[nn.Module]) -> bool:
    return all(type(module) in DETERMINISTIC for module in modules)


def _with_requires_grad(tensor: torch.Tensor, value: bool) -> torch.Tensor:
    # a parameter may be frozen after the first pass
    return tensor if tensor.requires_grad == value else tensor.detach().requires_grad_(value)


def _states(modules: Iterable[nn.Module]) -> list[State]:
    return [(module, _copied(vars(module))) for module in dict.fromkeys(modules)]


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return attributes of a module with copies of its dicts: of parameters, hooks and so on."""
    copy = attributes.copy()
    for name in MODULE_DICTS:
        copy[name] = attributes[name].copy()
    return copy


def _tensors(states: list[State]) -> list[torch.Tensor]:
    """Return the parameters and buffers of modules."""
    return [
        tensor
        for _, attributes in states
        for store in (attributes["_parameters"], attributes["_buffers"])
        for tensor in store.values()
        if tensor is not None
    ]


@contextmanager
def _restored(states: list[State], tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Within the block, let modules have the attributes that they had, and these tensors.

    Args:
        states: What :func:`_states` returned.
        tensors: What :func:`_tensors` returned, or copies.
    """
    before = [(module, vars(module)) for module, _ in states]
    given = iter(tensors)
    try:
        for module, attributes in states:
            attributes = _copied(attributes)  # what the block does to them is forgotten
            for store in (attributes["_parameters"], attributes["_buffers"]):
                store.update({name: next(given) for name, t in store.items() if t is not None})
            module.__dict__ = attributes
        yield
    finally:
        for module, attributes in before:
            module.__dict__ = attributes


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Return what two tensors with the same numbers in the same memory have in common."""
    storage = tensor.untyped_storage()._cdata  # unlike data_ptr() this works for meta tensors
    return storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


class ActivationCheckpointMixin(nn.Module):
    """Mixin for a module that knows the modes of ``MODEL.GN.MEMORY``.

    It comes before the module's class in the bases.

    Attributes:
        memory: The mode in training, one of :data:`MEMORY_MODES`. See :func:`set_memory`.
    """

    memory = "standard"

    def active_mode(self, layers: Iterable[nn.Module] | None = None) -> str:
        """Return the mode of this forward pass: ``memory`` in training, else ``"standard"``.

        It is "standard", too, if one of the layers has to run once (:func:`why_once`). The log then
        says so.

        Args:
            layers: The layers that would be recomputed, or None for all in this module.
        """
        if self.memory == "standard" or not (self.training and torch.is_grad_enabled()):
            return "standard"
        if not torch.compiler.is_compiling() and not _can_recompute():
            return "standard"
        for layer in self.children() if layers is None else layers:
            for module in layer.modules():
                if why := why_once(module):
                    self._warn_once(module, why)
                    return "standard"
        return self.memory

    def _warn_once(self, layer: nn.Module, why: str) -> None:
        if why in _warned or torch.compiler.is_compiling():
            return
        _warned.add(why)
        name = next(name for name, module in self.named_modules() if module is layer)
        logger.warning(
            f"MODEL.GN.MEMORY {self.memory}: the layer {name} of a {type(self).__name__} {why}. "
            "Such parts of the model save all tensors for backward, as in standard."
        )


def _can_recompute() -> bool:
    # PyTorch cannot in torch.func.grad, vmap and the like, nor where a parametrized weight is
    # kept from its first use
    torch_c: Any = torch._C
    return (
        torch_c._functorch.peek_interpreter_stack() is None
        and torch_c._autograd._saved_tensors_hooks_is_enabled()
        and not parametrize._cache_enabled
    )


def has_hooks(layer: nn.Module) -> bool:
    """Return whether a call of a layer calls hooks, of its own or on all modules."""
    return bool(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or any(GLOBAL_HOOKS)
    )


def why_once(layer: nn.Module) -> str:
    """Return why a layer has to run exactly once in a step; "" if it can be recomputed.

    A hook may change more than the layer's output: spectral norm's changes a buffer, and one that
    counts would count twice. A layer with a hook of its own is not split into its parts either.

    Args:
        layer: The layer, without its children.
    """
    if not _ignoring_hooks and has_hooks(layer):
        return "has hooks (pruning, weight_norm and others)"
    if "forward" in vars(layer):
        return "has a forward of its own"
    if isinstance(layer, nn.RReLU):
        return "is an RReLU, which saves its random numbers before it draws them"
    buffers = any(buffer is not None for buffer in layer._buffers.values())
    if type(layer) in DETERMINISTIC or not (buffers or has_statistics(layer)):
        return ""
    return f"is a {type(layer).__name__}, which may change its buffers"


@contextmanager
def ignoring_hooks() -> Iterator[None]:
    """Within the block, let hooks on layers not change what is recomputed.

    It is for hooks that only look, in a process that may have no memory for standard mode. They
    see no convolution that is split, and in backward they see what is recomputed.
    """
    global _ignoring_hooks
    before, _ignoring_hooks = _ignoring_hooks, True
    try:
        yield
    finally:
        _ignoring_hooks = before


_ignoring_hooks = False
_warned: set[str] = set()  # reasons


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
