"""What a run says when a loss or a gradient is not finite: where it began, and how to see it again.

Nothing of it runs in a step that goes well.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from detectron2.utils import comm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from gn_det.utils import SaveError

from .locate_nonfinite import NonFiniteReport, Step, locate_nonfinite, not_finite
from .loss_explosion import learning_rate_advice
from .step_file import save_step

if TYPE_CHECKING:
    from gn_det.engine.grad_accum import GradAccumTrainer

__all__ = ["NonFiniteError", "diagnose_nonfinite", "diagnose_nonfinite_all_ranks"]

MOST_IMAGES = 8  # named in a message


class NonFiniteError(FloatingPointError):
    """A loss or a gradient is NaN or infinite; the message says where it began.

    Args:
        iteration: of the step.
        message: what was seen, and where.
    """

    def __init__(self, iteration: int, message: str):
        super().__init__(f"Iteration {iteration}: {message}")
        self.iteration = iteration


@dataclass
class _Explanation:
    """Lines about what a process found, and whether its own step has numbers not finite."""

    lines: list[str]
    found: bool


def diagnose_nonfinite(steps: "GradAccumTrainer", what: str) -> NonFiniteError:
    """Return the error of a step that this process alone knows to have failed.

    Args:
        steps: at the step; its weights have not been changed in it.
        what: a sentence about what was seen.
    """
    return _error(steps, what, _explain(steps, True).lines)


def diagnose_nonfinite_all_ranks(
    steps: "GradAccumTrainer", what: str, *, mine: bool | None
) -> NonFiniteError:
    """Return the same error in all processes, which wait for those that look for the reason.

    Args:
        steps: see :func:`diagnose_nonfinite`.
        what: likewise.
        mine: whether this process's losses are the ones that are not finite; None: not known.
    """
    explanation = _Explanation([], False) if mine is False else _explain(steps, mine)
    everyone = comm.all_gather(explanation)
    if len(everyone) == 1:
        return _error(steps, what, explanation.lines)
    lines = [f"rank {rank}: {line}" for rank, of in enumerate(everyone) for line in of.lines]
    if mine is None and not any(of.found for of in everyone):
        lines.append(
            "No process's own step shows it: it came in the sum over processes, or the arithmetic "
            "of the device is not the same each time."
        )
    return _error(steps, what, lines)


def _error(steps: "GradAccumTrainer", what: str, lines: list[str]) -> NonFiniteError:
    advice = learning_rate_advice(steps.cfg, steps.iter, steps.learning_rate())
    text = "\n  ".join([what, *lines, *([advice] if advice else [])])
    return NonFiniteError(steps.iter, text)


def _explain(steps: "GradAccumTrainer", mine: bool | None) -> _Explanation:
    """Look for the reason; ``mine`` see :func:`diagnose_nonfinite_all_ranks`."""
    try:
        return _look(steps, mine)
    except Exception as error:  # noqa: BLE001 the error that is diagnosed must not be lost
        return _Explanation([f"The reason was looked for in vain: {error!r}"], False)


def _look(steps: "GradAccumTrainer", mine: bool | None) -> _Explanation:
    model = steps.model
    if isinstance(model, DistributedDataParallel):
        model = model.module
    steps.optimizer.zero_grad()  # room for doing it again
    step = Step(
        steps.batches, [*steps.micro_batch_ids], steps.iter, steps.seed, steps.scaler.get_scale()
    )
    lines = _bad_weights(model) + _bad_images(step.batches)
    if _talks_to_others(model):
        finding = NonFiniteReport()
        lines.append("It is not done again: SyncBN needs all processes.")
    else:
        finding = locate_nonfinite(model, step, steps.autocast)
        lines.append(_place(finding, step))
    batches = step.batches if finding.batch is None else [step.batches[finding.batch]]
    if names := [name for batch in batches for name in image_files(batch)]:
        more = f" and {len(names) - MOST_IMAGES} more" if names[MOST_IMAGES:] else ""
        lines.append(f"Images: {', '.join(names[:MOST_IMAGES])}{more}")
    found = bool(finding.place or mine)
    if found or comm.get_world_size() == 1:
        lines.append(_save(steps, model, step))
    return _Explanation(lines, found)


def _place(finding: NonFiniteReport, step: Step) -> str:
    if finding.place:
        if finding.batch is None or len(step.micro_batch_ids) == 1:
            return finding.place
        gpu = step.micro_batch_ids[finding.batch]
        number = f"{finding.batch + 1} of {len(step.micro_batch_ids)}"
        return f"{finding.place} (Micro-batch {number}, virtual GPU {gpu}.)"
    if step.seed is None:
        return "Done again, with other random numbers (the run has no seed), the step is finite."
    if comm.get_world_size() > 1:
        return "Done again by this process alone, the step is finite."
    return "Done again, the step is finite: the arithmetic of the device is not the same each time."


def _save(steps: "GradAccumTrainer", model: nn.Module, step: Step) -> str:
    if steps.cfg is None:
        return "The step is not saved: its model is of no YAML config."
    name = f"nonfinite_iter{step.iteration:07d}_rank{comm.get_rank()}.pth"
    path = os.path.join(steps.cfg.OUTPUT_DIR, name)
    try:
        save_step(path, steps.cfg, model, step)
    except (SaveError, OSError) as error:
        return f"The step is not saved: {error}"
    return f"See it again by: gn-det replay {path}"


def _talks_to_others(model: nn.Module) -> bool:
    """Return whether a forward pass is a collective: SyncBN of PyTorch or Detectron2."""
    layers = (m for m in model.modules() if isinstance(m, _BatchNorm))
    return comm.get_world_size() > 1 and any("Sync" in type(m).__name__ for m in layers)


def _bad_weights(model: nn.Module) -> list[str]:
    bad = [name for name, value in model.state_dict().items() if not_finite(value)]
    if not bad:
        return []
    more = f" and {len(bad) - 1} more" if bad[1:] else ""
    return [f"Weights were not finite before this step: {bad[0]}{more}."]


def _bad_images(batches: list[Any]) -> list[str]:
    lines = []
    for batch in batches:
        columns = isinstance(batch, dict)
        if not columns and not isinstance(batch, list):
            continue
        images = batch.get("image", []) if columns else [item.get("image") for item in batch]
        names = image_files(batch) or [f"number {number}" for number in range(len(images))]
        for name, image in zip(names, images):
            if isinstance(image, torch.Tensor) and not_finite(image):
                lines.append(f"The image itself is not finite: {name}.")
    return lines


def image_files(batch: Any) -> list[str]:
    """Return the ``file_name`` of each image of a batch, which is a list of dicts or a dict."""
    if isinstance(batch, dict):
        return [str(name) for name in batch.get("file_name", [])]
    if isinstance(batch, list) and all(isinstance(item, dict) for item in batch):
        return [str(item.get("file_name", "without a name")) for item in batch]
    return []
