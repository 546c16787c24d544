"""One training step: forward, backward, clip, update, in the precision that the config asks for."""

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.engine.train_loop import SimpleTrainer
from detectron2.utils.events import get_event_storage

__all__ = ["StepTrainer"]


class StepTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer with autocast on any device and clipping of the global norm.

    Detectron2's AMPTrainer asserts a GPU; this one runs bfloat16 on a CPU as well.

    Args:
        model: returns a dict of losses for a batch.
        data_loader: yields batches.
        optimizer: steps once a batch.
        autocast: makes the context of the forward pass.
        scaler: scales the loss of float16; None for no scaling.
        clip_norm: the gradient's norm over all parameters is clipped at it; 0 for no clipping.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        *,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        scaler: "torch.amp.GradScaler | None" = None,
        clip_norm: float = 0.0,
    ):
        super().__init__(model, data_loader, optimizer)
        self.autocast = autocast
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        self.clip_norm = clip_norm

    def run_step(self) -> None:
        """Run one iteration.

        Raises:
            FloatingPointError: a loss is NaN or infinite.
        """
        if not self.model.training:
            raise RuntimeError("The model was set to eval() during training.")
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        with self.autocast():
            loss_dict = self.model(data)
            losses = sum(loss_dict.values())
        self.optimizer.zero_grad()
        self.scaler.scale(losses).backward()
        self.after_backward()
        self._clip()
        self._write_metrics(loss_dict, data_time)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _clip(self) -> None:
        if not self.clip_norm:
            return
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        get_event_storage().put_scalar("grad_norm", float(norm))

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's and the scaler's state."""
        return {**super().state_dict(), "grad_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take both back. A checkpoint of a run without a scaler is fine."""
        super().load_state_dict(state_dict)
        if self.scaler.is_enabled() and state_dict.get("grad_scaler"):
            self.scaler.load_state_dict(state_dict["grad_scaler"])
