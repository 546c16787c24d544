"""Do losses and gradients agree between the memory modes, and between two runs of one mode?

On a GPU some operators of PyTorch add up in any order: two runs of the same may differ. With
``torch.use_deterministic_algorithms(True)`` they must not.
"""

from typing import Any

import torch

from benchmarks.train import TrainStep
from benchmarks.variants import VARIANTS
from benchmarks.workload import Setting, Workload

from .session import Section
from .steps import TINY, setting

__all__ = ["SETTING", "compare_modes", "measure"]

# deterministic algorithms need gigabytes for more RoIs on larger images
SETTING = Setting(options=TINY, height=320, width=416, rois=64)
PRECISIONS = ("bf16-channels_last", "fp32")


def measure(section: Section) -> None:
    """Add a row for each precision, with and without PyTorch's deterministic algorithms."""
    workload = Workload(setting(True, 2) if section.dry else SETTING)
    for deterministic in (False, True):
        for precision in PRECISIONS[:1] if section.dry else PRECISIONS:
            name = precision + " deterministic" * deterministic
            if not section.has_time(name, 5):
                continue
            with section.row(name) as row:
                torch.use_deterministic_algorithms(deterministic)
                try:
                    row.update(compare_modes(workload, precision))
                finally:
                    torch.use_deterministic_algorithms(False)


def compare_modes(workload: Workload, precision: str) -> dict[str, dict[str, Any]]:
    """Return how a second run of ``standard``, ``lean`` and ``minimal`` differ from the first run.

    Args:
        workload: The batch and weights.
        precision: The end of the names of the variants, such as ``bf16-channels_last``.
    """
    losses, gradients = _gradients(workload, f"standard-{precision}")
    found = {}
    for label, mode in (("again", "standard"), ("lean", "lean"), ("minimal", "minimal")):
        other_losses, others = _gradients(workload, f"{mode}-{precision}")
        difference = {name: _difference(gradients[name], others[name]) for name in gradients}
        worst = max(difference, key=difference.__getitem__)
        found[label] = {
            "losses_equal": losses == other_losses,
            "equal": sum(torch.equal(gradients[name], others[name]) for name in gradients),
            "gradients": len(gradients),
            "worst": difference[worst],
            "of": worst,
        }
    return found


def _gradients(workload: Workload, name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    step = TrainStep(workload, VARIANTS[name])
    losses = step.forward()
    sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in step.model.named_parameters() if p.grad is not None}
    return {name: loss.item() for name, loss in losses.items()}, gradients


def _difference(x: torch.Tensor, y: torch.Tensor) -> float:
    return ((x - y).norm() / x.norm().clamp(min=1e-20)).item()
