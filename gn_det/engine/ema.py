"""An exponential moving average (EMA) of the weights, which is evaluated and saved instead."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["ModelEMA"]


class ModelEMA:
    """``ema <- decay * ema + (1 - decay) * weights`` after each step.

    The EMA begins as the weights after the first step. It takes the memory of one more copy of the
    parameters that are trained. Buffers, such as BN's statistics, are the model's own.

    The weights and their EMA change places without a copy, so that all that evaluates or saves
    ``model`` inside :meth:`applied` uses the EMA.

    Args:
        model: The model in training; the EMA has the dtype of its parameters, as a rule float32.
        decay: The decay of a step, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        self._update_ema = get_ema_multi_avg_fn(decay)
        self._weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        # of weights and EMA the one that is not in the model; empty before the first step
        self._other: dict[str, torch.Tensor] = {}
        self._applied = False

    def update(self) -> None:
        """Take in the weights after a step."""
        if self._other:
            self._update_ema([*self._other.values()], [*self._weights.values()], None)
        else:
            self._other = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the EMA inside the block. A block within a block changes nothing."""
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
            ``{"applied": whether the model has the EMA, "other": {name: tensor}}``
        """
        return {"applied": self._applied, "other": self._other}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state, once the model has loaded its own; then the model has the weights.

        Args:
            state_dict: What :meth:`state_dict` returned.
        """
        other = state_dict["other"]
        # in the memory format of the parameters, which may be channels_last
        self._other = {n: self._weights[n].detach().clone().copy_(other[n]) for n in other}
        self._applied = state_dict["applied"]
        if self._applied:
            self._exchange()
