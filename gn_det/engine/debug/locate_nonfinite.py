"""Repeats a training step, and finds the first module whose numbers are not finite.

Nothing of this runs in a step that goes well. The bare model repeats the step in one process: no
DistributedDataParallel, no collective, and no gradient is written to a parameter.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import nn

from gn_det.data import seed_everything
from gn_det.modeling.activation_checkpointing import ignoring_hooks
from gn_det.utils import and_more

__all__ = ["NonFiniteReport", "Step", "count_nonfinite", "locate_nonfinite"]


@dataclass
class Step:
    """What a process did in one step, besides its weights.

    Attributes:
        batches: The micro-batches; fewer than ``micro_batch_ids`` where the step ended early.
        micro_batch_ids: The number of each micro-batch in the step, over all processes.
        iteration: The iteration, from 0.
        seed: The seed of the run; None: the random numbers cannot be repeated.
        scale: The factor of the loss, by a loss scaler; 1 without one.
    """

    batches: list[Any]
    micro_batch_ids: list[int]
    iteration: int
    seed: int | None
    scale: float = 1.0


@dataclass
class NonFiniteReport:
    """What repeating a step showed.

    Attributes:
        losses: The losses of each micro-batch up to where a number was not finite.
        location: A sentence about where numbers stopped being finite; "" where all are.
        micro_batch: The index of the micro-batch in which that was, from 0; None: in all of them,
            or in none.
    """

    losses: list[dict[str, float]] = field(default_factory=list)
    location: str = ""
    micro_batch: int | None = None


def locate_nonfinite(
    model: nn.Module, step: Step, autocast: Callable[[], AbstractContextManager]
) -> NonFiniteReport:
    """Repeat a step up to the first module whose output or gradient is not finite.

    Args:
        model: The model, not wrapped, in training mode. Its weights, buffers and gradients stay as
            they are.
        step: The step to repeat.
        autocast: A function that makes the context of the forward pass.
    """
    report, hooks = NonFiniteReport(), _NonFiniteHooks()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    largest = (0.0, "")
    # Detectron2's heads write to a storage: here to one that nobody reads
    storage = EventStorage(step.iteration)
    with _restored_buffers(model), hooks.on(model), ignoring_hooks(), storage:
        for index, (batch, number) in enumerate(zip(step.batches, step.micro_batch_ids)):
            report.micro_batch = index
            if step.seed is not None:
                seed_everything(step.seed, step.iteration, number)
            loss = _forward(model, batch, autocast, hooks, report)
            if report.location or loss is None:
                return report
            loss = loss * step.scale / len(step.micro_batch_ids)
            given: dict[str, torch.Tensor] = {}
            with hooks.taking_errors():
                gradients = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True)
                given = {n: g for n, g in zip(parameters, gradients) if g is not None}
            report.location = hooks.found or _bad_parameters(given)
            if report.location:
                return report
            norms = {name: float(gradient.norm()) for name, gradient in given.items()}
            largest = max(largest, *((norm, name) for name, norm in norms.items()))
    report.micro_batch = None
    if not math.isfinite(largest[0]):
        report.location = (
            f"Each number of the gradient is finite, but that of {largest[1]} is so large that its "
            "norm is not."
        )
    return report


def _forward(
    model: nn.Module,
    batch: Any,
    autocast: Callable[[], AbstractContextManager],
    hooks: "_NonFiniteHooks",
    report: NonFiniteReport,
) -> torch.Tensor | None:
    """Run a micro-batch, add to the report, and return the loss; None where there is none."""
    hooks.begin()
    loss = None
    with hooks.taking_errors():
        with autocast():
            losses = model(batch)
        loss = reduce(torch.add, losses.values())
        report.losses.append({name: float(value.detach()) for name, value in losses.items()})
    hooks.forward = False  # activation checkpointing repeats in backward what was looked at
    report.location = hooks.found
    return loss


def _bad_parameters(gradients: dict[str, torch.Tensor]) -> str:
    bad = [name for name, gradient in gradients.items() if count_nonfinite(gradient)]
    if not bad:
        return ""
    return (
        "The gradients at all modules' outputs are finite, but the gradient of a parameter is "
        f"not: {and_more(bad)}."
    )


class _NonFiniteHooks:
    """Hooks on all modules, and on their outputs for the gradients.

    Attributes:
        found: A sentence about the first module whose numbers are not finite; "" until then.
        forward: Whether the forward pass is at work.
    """

    def __init__(self) -> None:
        self.found = ""
        self.forward = False
        self._last_gradient = "the losses"

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        names = {
            name: f"{name or 'the model'} ({type(module).__name__})"
            for name, module in model.named_modules()
        }
        handles = [
            module.register_forward_hook(
                partial(self._after, names[name], names[name.rpartition(".")[0]]),
                with_kwargs=True,
            )
            for name, module in model.named_modules()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def begin(self) -> None:
        self.forward, self._last_gradient = True, "the losses"

    @contextmanager
    def taking_errors(self) -> Iterator[None]:
        """Take an error inside as what was found, or as what followed from it."""
        try:
            yield
        except Exception as error:
            # NaN breaks what comes after it in many ways
            if not self.found and not isinstance(error, FloatingPointError):
                raise
            self.found = self.found or f"All outputs of modules were finite until this: {error}"

    def _after(
        self, who: str, parent: str, module: nn.Module, args: tuple, kwargs: dict, output: Any
    ) -> None:
        if self.found or not self.forward:
            return
        for path, tensor in _tensors(output):
            bad = count_nonfinite(tensor)
            if bad:
                fine = not any(count_nonfinite(t) for _, t in _tensors((args, kwargs)))
                before = f"was not finite already: look at what {parent} does before it."
                self.found = (
                    f"{who} is the first module whose output is not finite"
                    f"{path and f' ({path})'}: {bad:,} of {tensor.numel():,} numbers. Its input "
                    f"{'was finite.' if fine else before}"
                )
                return
            if tensor.requires_grad:
                # a hook of the tensor, not of the module: those forbid in-place operations
                tensor.register_hook(partial(self._gradient, who))

    def _gradient(self, who: str, gradient: torch.Tensor) -> None:
        if self.found:
            return
        bad = count_nonfinite(gradient)
        if not bad:
            self._last_gradient = f"the output of {who}"
            return
        self.found = (
            f"{who} is the first module, in backward, whose output's gradient is not finite: "
            f"{bad:,} of {gradient.numel():,} numbers. The last gradient that was finite is that "
            f"of {self._last_gradient}."
        )


@contextmanager
def _restored_buffers(model: nn.Module) -> Iterator[None]:
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def _tensors(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors in containers and in Detectron2's structures, with their keys."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, Instances):
        yield from _tensors(value.get_fields(), path)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(item, str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item, path)
    elif isinstance(getattr(value, "tensor", None), torch.Tensor):  # Boxes, ImageList, BitMasks
        yield path, value.tensor


def count_nonfinite(tensor: torch.Tensor) -> int:
    """Return how many numbers of a tensor are NaN or infinite; 0 for integers."""
    if not tensor.is_floating_point():
        return 0
    return int((~torch.isfinite(tensor.detach())).sum())
