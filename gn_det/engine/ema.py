"""An exponential moving average of the weights, which is evaluated and saved in their place."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["ModelEMA"]


class ModelEMA:
    """``average <- decay * average + (1 - decay) * weights`` after each step.

    It begins as the weights after the first step, and holds one more copy of the parameters that
    are trained. Buffers, such as BN's statistics, are not averaged: the average goes with the
    model's own.

    The weights and their average change places without a copy, so that everything that evaluates
    or saves ``model`` inside :meth:`applied` does so with the average.

    Args:
        model: in training; its average is of the same type, float32 as a rule.
        decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        self._average = get_ema_multi_avg_fn(decay)
        self._weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        # of weights and average the one that is not in the model; empty before the first step
        self._other: dict[str, torch.Tensor] = {}
        self._applied = False

    def update(self) -> None:
        """Take in the weights after a step."""
        weights = {name: p.detach() for name, p in self._weights.items()}
        if self._other:
            self._average([*self._other.values()], [*weights.values()], None)
        else:
            self._other = {name: weight.clone() for name, weight in weights.items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the average inside. Within itself it does nothing."""
        if self._applied:
            yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, tensor in self._other.items():
            weight = self._weights[name]
            self._other[name], weight.data = weight.data, tensor
        self._applied = not self._applied

    def state_dict(self) -> dict[str, Any]:
        """Return what ``model.state_dict()`` does not hold at the moment, and which of both it is.

        Returns:
            ``{"applied": whether the model has the average, "other": {name: tensor}}``
        """
        return {"applied": self._applied, "other": self._other}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back, once the model has its part, and let the model have the weights."""
        other = state_dict["other"]
        # as the parameters lie in memory, which may be channels_last
        self._other = {n: self._weights[n].detach().clone().copy_(other[n]) for n in other}
        self._applied = state_dict["applied"]
        if self._applied:
            self._exchange()
