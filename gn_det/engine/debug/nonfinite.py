"""The message of a run whose loss or gradient is not finite: where it began, and how to repeat it.

Nothing of this runs in a step that goes well.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from gn_det.utils import SaveError, and_more

from .locate_nonfinite import NonFiniteReport, Step, count_nonfinite, locate_nonfinite
from .loss_explosion import learning_rate_advice
from .step_file import save_step

__all__ = ["FailedStep", "NonFiniteError", "diagnose_nonfinite", "diagnose_nonfinite_all_ranks"]

MOST_IMAGES = 8  # named in a message


class FailedStep(Protocol):
    """What a diagnosis reads of the trainer, :class:`gn_det.engine.GradAccumTrainer`."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: "torch.amp.GradScaler"
    autocast: Callable[[], AbstractContextManager]
    batches: list[Any]
    micro_batch_ids: Sequence[int]
    iter: int
    seed: int | None
    cfg: CfgNode | None

    def learning_rate(self) -> float:
        """Return the learning rate of the step."""
        ...


class NonFiniteError(FloatingPointError):
    """A loss or a gradient is NaN or infinite; the message says where it began.

    Args:
        iteration: The iteration of the step, from 0.
        message: What was seen, and where.
    """

    def __init__(self, iteration: int, message: str):
        super().__init__(f"Iteration {iteration}: {message}")
        self.iteration = iteration


@dataclass
class _Diagnosis:
    """What a process says about its own step.

    Attributes:
        lines: The lines of the message.
        found: Whether a number of this process is not finite.
    """

    lines: list[str]
    found: bool


def diagnose_nonfinite(steps: FailedStep, what: str) -> NonFiniteError:
    """Return the error of a step that this process alone knows to have failed.

    Args:
        steps: The trainer, at the step; its weights have not been changed in it.
        what: A sentence about what was seen.
    """
    return _error(steps, what, _diagnose(steps, True).lines)


def diagnose_nonfinite_all_ranks(
    steps: FailedStep, what: str, *, mine: bool | None
) -> NonFiniteError:
    """Return the same error in all processes, which wait for those that look for the reason.

    Args:
        steps: See :func:`diagnose_nonfinite`.
        what: See :func:`diagnose_nonfinite`.
        mine: Whether this process's losses are the ones that are not finite; None: not known.
    """
    diagnosis = _Diagnosis([], False) if mine is False else _diagnose(steps, mine)
    everyone = comm.all_gather(diagnosis)
    if len(everyone) == 1:
        return _error(steps, what, diagnosis.lines)
    lines = [f"rank {rank}: {line}" for rank, of in enumerate(everyone) for line in of.lines]
    if mine is None and not any(of.found for of in everyone):
        lines.append(
            "No process's own step shows it: it came in the sum over processes, or the arithmetic "
            "of the device is not the same each time."
        )
    return _error(steps, what, lines)


def _error(steps: FailedStep, what: str, lines: list[str]) -> NonFiniteError:
    advice = learning_rate_advice(steps.cfg, steps.iter, steps.learning_rate())
    text = "\n  ".join([what, *lines, *([advice] if advice else [])])
    return NonFiniteError(steps.iter, text)


def _diagnose(steps: FailedStep, mine: bool | None) -> _Diagnosis:
    """Look for the reason; ``mine`` as in :func:`diagnose_nonfinite_all_ranks`."""
    try:
        return _repeat_step(steps, mine)
    except Exception as error:  # noqa: BLE001 the error that is diagnosed must not be lost
        return _Diagnosis([f"The reason could not be found: {error!r}"], False)


def _repeat_step(steps: FailedStep, mine: bool | None) -> _Diagnosis:
    model = steps.model
    if isinstance(model, DistributedDataParallel):
        model = model.module
    steps.optimizer.zero_grad()  # frees memory for the repetition
    step = Step(
        steps.batches, [*steps.micro_batch_ids], steps.iter, steps.seed, steps.scaler.get_scale()
    )
    lines = _bad_weights(model) + _bad_images(step.batches)
    if _has_sync_bn(model):
        report = NonFiniteReport()
        lines.append("The step is not repeated: SyncBN needs all processes.")
    else:
        report = locate_nonfinite(model, step, steps.autocast)
        lines.append(_location(report, step))
    batches = step.batches if report.micro_batch is None else [step.batches[report.micro_batch]]
    if names := [name for batch in batches for name in image_files(batch)]:
        lines.append(f"Images: {and_more(names, MOST_IMAGES)}")
    found = bool(report.location or mine)
    if found or comm.get_world_size() == 1:
        lines.append(_save(steps, model, step))
    return _Diagnosis(lines, found)


def _location(report: NonFiniteReport, step: Step) -> str:
    if report.location:
        count = len(step.micro_batch_ids)
        if report.micro_batch is None or count == 1:
            return report.location
        return f"{report.location} (Micro-batch {report.micro_batch + 1} of {count}.)"
    if step.seed is None:
        return "Repeated with other random numbers (the run has no seed), the step is finite."
    if comm.get_world_size() > 1:
        return "Repeated by this process alone, the step is finite."
    return "Repeated, the step is finite: the arithmetic of the device is not the same each time."


def _save(steps: FailedStep, model: nn.Module, step: Step) -> str:
    if steps.cfg is None:
        return "The step is not saved: its model is of no YAML config."
    name = f"nonfinite_iter{step.iteration:07d}_rank{comm.get_rank()}.pth"
    path = os.path.join(steps.cfg.OUTPUT_DIR, name)
    try:
        save_step(path, steps.cfg, model, step)
    except (SaveError, OSError) as error:
        return f"The step is not saved: {error}"
    return f"Repeat the step with: gn-det replay {path}"


def _has_sync_bn(model: nn.Module) -> bool:
    """Return whether a forward pass needs all processes: SyncBN of PyTorch or Detectron2."""
    layers = (m for m in model.modules() if isinstance(m, _BatchNorm))
    return comm.get_world_size() > 1 and any("Sync" in type(m).__name__ for m in layers)


def _bad_weights(model: nn.Module) -> list[str]:
    bad = [name for name, value in model.state_dict().items() if count_nonfinite(value)]
    return [f"Weights were not finite before this step: {and_more(bad)}."] if bad else []


def _bad_images(batches: list[Any]) -> list[str]:
    lines = []
    for batch in batches:
        columns = isinstance(batch, dict)
        if not columns and not isinstance(batch, list):
            continue
        images = batch.get("image", []) if columns else [item.get("image") for item in batch]
        names = image_files(batch) or [f"number {number}" for number in range(len(images))]
        for name, image in zip(names, images):
            if isinstance(image, torch.Tensor) and count_nonfinite(image):
                lines.append(f"The image itself is not finite: {name}.")
    return lines


def image_files(batch: Any) -> list[str]:
    """Return the ``file_name`` of each image of a batch.

    Args:
        batch: A list of dicts, one an image; or a dict of columns. Others have no names.
    """
    if isinstance(batch, dict):
        return [str(name) for name in batch.get("file_name", [])]
    if isinstance(batch, list) and all(isinstance(item, dict) for item in batch):
        return [str(item.get("file_name", "without a name")) for item in batch]
    return []
