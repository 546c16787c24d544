"""The optimizer and the learning rate of a resumed run, as its config gives them.

Loading a checkpoint brings back the options of the optimizer and of the schedule. Where the config
has changed since, they have to be those of the config, and the learning rate at iteration k that of
a run which had this config from the start.
"""

import copy
import warnings
from typing import Any

import torch
from detectron2.solver import LRMultiplier
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["ConfiguredSolver"]


class ConfiguredSolver:
    """The options of an optimizer and its schedule before a checkpoint is loaded.

    Args:
        optimizer: The optimizer, which has done no step.
        scheduler: A scheduler of PyTorch that has done no step, or fvcore's multiplier of the
            learning rate.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, scheduler: Any):
        self._optimizer, self._scheduler = optimizer, scheduler
        self._options = [
            {key: copy.copy(value) for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]
        is_torchs = isinstance(scheduler, LRScheduler)
        self._schedule = copy.deepcopy(scheduler.state_dict()) if is_torchs else None

    def restore(self, iteration: int) -> None:
        """Set the options and the schedule as they would be at an iteration.

        Args:
            iteration: The next iteration, at least 1.
        """
        for group, options in zip(self._optimizer.param_groups, self._options):
            group.update(options)
            if self._schedule is None:  # Detectron2's hook makes the schedule, of this number
                group["initial_lr"] = group["lr"]
        if self._schedule is None:
            return
        self._scheduler.load_state_dict(copy.deepcopy(self._schedule))
        steps = iteration
        if isinstance(self._scheduler, LRMultiplier):  # a function of the iteration alone
            self._scheduler.last_epoch, steps = iteration - 1, 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the optimizer has done no step
            for _ in range(steps):
                self._scheduler.step()
