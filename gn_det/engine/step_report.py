"""What a step reports: read from the device once, and exchanged between processes as one tensor.

Python runs ahead of a GPU. Each number that it reads makes it wait until the GPU has caught up, so
losses and gradient norm are read together, at the end of the backward pass.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import torch
import torch.distributed as dist
from detectron2.utils import comm

__all__ = ["StepReport", "StepReports"]


class StepReport(NamedTuple):
    """What a process reports of a step.

    Attributes:
        losses: The mean of each loss over the micro-batches of the process. A loss counts as 0
            where a micro-batch lacks it, because it adds nothing to the gradient.
        norm: The norm of the gradient.
        data_time: The seconds in which the process waited for images.
        stop_requested: Whether the process asks to end the run.
    """

    losses: dict[str, float]
    norm: float
    data_time: float
    stop_requested: bool


class StepReports:
    """Exchanges the reports of all processes.

    The processes have agreed on names and order of the losses, so a step sends numbers alone. One
    that has a new name says so in a number of its own, and then all exchange their names.
    """

    def __init__(self) -> None:
        self._names: list[str] = []

    def exchange(
        self,
        losses: Sequence[Mapping[str, torch.Tensor]],
        norm: torch.Tensor,
        data_time: float,
        stop_requested: bool,
    ) -> list[StepReport]:
        """Return the reports of all processes, in the order of their ranks. All call it together.

        Args:
            losses: The losses of each micro-batch of this process, one number each.
            norm: The norm of the gradient, of shape ().
            data_time: See :class:`StepReport`.
            stop_requested: See :class:`StepReport`.
        """
        mine = list(dict.fromkeys(chain.from_iterable(losses)))
        if comm.get_world_size() == 1:
            self._learn([mine])
        while True:
            is_new = not set(mine) <= set(self._names)
            numbers = torch.cat([self._means(losses, norm), _at_least_float32(norm)[None]])
            rows = _all_gather(numbers, [data_time, stop_requested, is_new])
            if not any(row[-1] for row in rows):
                return [self._report(row) for row in rows]
            self._learn(comm.all_gather(mine))

    def _learn(self, names: Sequence[Sequence[str]]) -> None:
        self._names = list(dict.fromkeys(chain(self._names, *names)))

    def _means(
        self, losses: Sequence[Mapping[str, torch.Tensor]], norm: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean of each loss, of shape (number of names,), on the device of ``norm``."""
        zero = torch.zeros_like(_at_least_float32(norm))
        if not self._names:
            return zero.new_zeros(0)
        rows = [[of.get(name, zero).to(zero).reshape(()) for name in self._names] for of in losses]
        return torch.stack([torch.stack(row) for row in rows]).mean(0)

    def _report(self, row: list[float]) -> StepReport:
        *losses, norm, data_time, stop_requested, _ = row
        return StepReport(dict(zip(self._names, losses)), norm, data_time, bool(stop_requested))


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


def _all_gather(numbers: torch.Tensor, of_host: list[float]) -> list[list[float]]:
    """Return the numbers of each process: those of the device, then those of the host."""
    size = comm.get_world_size()
    if size == 1:
        return [[*numbers.tolist(), *of_host]]
    more = torch.tensor(of_host, dtype=numbers.dtype)
    numbers = torch.cat([numbers, more.to(numbers.device, non_blocking=True)])
    rows = [torch.empty_like(numbers) for _ in range(size)]
    # by the group that averages the gradients, so it knows this device
    dist.all_gather(rows, numbers)
    return torch.stack(rows).tolist()
