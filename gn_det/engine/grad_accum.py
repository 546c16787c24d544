"""One training step with gradient accumulation: forward and backward of each micro-batch, update.

With GN, accumulating the gradients of k micro-batches is the same training as on k times as many
GPUs: each micro-batch has its own losses, and their gradients are averaged. The micro-batches of a
step are numbered over all processes. The number decides which images and which random numbers a
micro-batch gets, whatever process works on it.
"""

import logging
import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine.train_loop import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gn_det.config import ConfigError, images_per_micro_batch
from gn_det.data import TrainStream, seed_everything, send_batch
from gn_det.engine.debug.loss_explosion import LossWatch, learning_rate_advice
from gn_det.engine.debug.nonfinite import diagnose_nonfinite, diagnose_nonfinite_all_ranks
from gn_det.engine.debug.out_of_memory import memory_advice

from .ema import ModelEMA
from .optimizer_state import fitting_state, optimizer_class, parameter_names
from .precision import autocast, grad_scaler
from .step_report import StepReports

__all__ = ["GradAccumTrainer", "build_grad_accum_trainer"]

logger = logging.getLogger(__name__)


def build_grad_accum_trainer(
    cfg: CfgNode, model: nn.Module, data_loader: Iterable, optimizer: torch.optim.Optimizer
) -> "GradAccumTrainer":
    """Return a :class:`GradAccumTrainer` with the batch, precision, clipping and EMA of ``SOLVER``.

    Args:
        cfg: A finished config.
        model: The model, which returns a dict of losses for a batch.
        data_loader: A :class:`gn_det.data.TrainStream`, or a loader that yields a list of all
            images that a process has in a step, such as Detectron2's.
        optimizer: The optimizer of the model.
    """
    world_size = comm.get_world_size()
    size = images_per_micro_batch(cfg, world_size)
    micro_batch_ids = range(comm.get_rank(), cfg.SOLVER.IMS_PER_BATCH // size, world_size)
    if len(micro_batch_ids) > 1 and not isinstance(data_loader, TrainStream):
        data_loader = MicroBatchLoader(data_loader, size)
    decay = cfg.SOLVER.EMA_DECAY
    trainer = GradAccumTrainer(
        model,
        data_loader,
        optimizer,
        micro_batch_ids=micro_batch_ids,
        autocast=partial(autocast, cfg),
        scaler=grad_scaler(cfg),
        clip_norm=cfg.SOLVER.CLIP_GLOBAL_NORM,
        ema=ModelEMA(getattr(model, "module", model), decay) if decay else None,
    )
    trainer.cfg = cfg
    return trainer


class GradAccumTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer with gradient accumulation, clipping and autocast on any device.

    Detectron2's AMPTrainer asserts a GPU; this one runs bfloat16 on a CPU as well.

    Args:
        model: The model, which returns a dict of losses for a batch.
        data_loader: An iterable of micro-batches.
        optimizer: The optimizer, which steps once for all micro-batches of a step.
        micro_batch_ids: The numbers of this process's micro-batches in a step, from 0. No two
            processes share a number.
        autocast: A function that makes the context of the forward pass.
        scaler: The loss scaler of float16; None for no scaling.
        clip_norm: The largest norm of the gradient over all parameters; 0 for no clipping.
        ema: The EMA of the model's weights, updated after each step; None for none.

    Attributes:
        seed: The seed of the run. The random numbers of a micro-batch follow from it, the iteration
            and the micro-batch's number. None (default): they follow from what was drawn before.
        cfg: The finished config of the model, for advice and for the file of a step that failed.
            None (default): there is none.
        batches: The micro-batches of the step at work, for a look at what went wrong.
        stop_requested: Whether to end the run after a step; it is set in any of the processes.
        should_stop: Whether that was so in the step that has just ended; the same in all processes.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        *,
        micro_batch_ids: Sequence[int] = (0,),
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        scaler: "torch.amp.GradScaler | None" = None,
        clip_norm: float = 0.0,
        ema: ModelEMA | None = None,
    ):
        super().__init__(model, data_loader, optimizer)
        self.micro_batch_ids = micro_batch_ids
        self.autocast = autocast
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        self.clip_norm = clip_norm
        self.ema = ema
        self.seed: int | None = None
        self.cfg: CfgNode | None = None
        self.batches: list[Any] = []
        self._loss_watch, self._reports = LossWatch(), StepReports()
        self.stop_requested = self.should_stop = False

    def seek_data(self, iteration: int) -> None:
        """Let the images continue as the run of :attr:`seed` has them from ``iteration`` on.

        A loader that is not a :class:`gn_det.data.TrainStream` starts anew, with a warning.

        Args:
            iteration: The next iteration, from 0.
        """
        if isinstance(self.data_loader, TrainStream):
            if self.seed is None:
                raise ValueError("The order of the images follows from a seed, and seed is None.")
            self.data_loader.seek(self.seed, iteration)
        elif iteration > 0:
            logger.warning(
                "The images come in another order than without the stop: "
                f"{type(self.data_loader).__name__} cannot start in the middle. "
                "gn_det.engine.Trainer.build_train_loader(cfg, mapper) can."
            )

    def run_step(self) -> None:
        """Run one iteration.

        Raises:
            NonFiniteError: A loss or the gradient is NaN or infinite. It is raised in all
                processes, before the weights are touched. The message says where it began.
            RuntimeError, MemoryError: Memory does not suffice. The message says what would help.
            WorkerDied: A process that loads images was killed. The message names the image.
        """
        try:
            self._step()
        except RuntimeError as error:
            # PyTorch raises it wherever the process is, mostly in forward or backward
            stream = self.data_loader
            died = stream.worker_died(error) if isinstance(stream, TrainStream) else None
            if died is None:
                raise
            raise died from error

    def _step(self) -> None:
        if not self.model.training:
            raise RuntimeError("The model was set to eval() during training.")
        self.optimizer.zero_grad()
        self.batches, losses_of_batches, data_time = [], [], 0.0
        for number, micro_batch_id in enumerate(self.micro_batch_ids, start=1):
            start = time.perf_counter()
            self.batches.append(next(self._data_loader_iter))
            data_time += time.perf_counter() - start
            # gradients are averaged over processes once, in the last backward
            last = number == len(self.micro_batch_ids)
            with self._advice(), nullcontext() if last else self._no_sync():
                losses_of_batches.append(self._losses(self.batches[-1], micro_batch_id))
        self.after_backward()
        self.scaler.unscale_(self.optimizer)
        norm = self._report(losses_of_batches, self._clip(), data_time)
        # not scaler.step, which would ask the GPU for what the norm says already
        if math.isfinite(norm):
            with self._advice():  # the first step makes the momentum
                self.optimizer.step()
            if self.ema is not None:
                self.ema.update()
        self.scaler.update()

    def use_ema_weights(self) -> AbstractContextManager:
        """Give the model the weights to evaluate and save inside the block: the EMA, if any."""
        return nullcontext() if self.ema is None else self.ema.applied()

    def learning_rate(self) -> float:
        """Return the learning rate of the largest group of parameters."""
        groups = self.optimizer.param_groups
        return max(groups, key=lambda group: sum(p.numel() for p in group["params"]))["lr"]

    def forward(self, batch: Any, micro_batch_id: int) -> dict[str, torch.Tensor]:
        """Return the losses of a micro-batch.

        Args:
            batch: The micro-batch, as the model takes it.
            micro_batch_id: Its number in the step, which its random numbers follow from.
        """
        if self.seed is not None:
            seed_everything(self.seed, self.iter, micro_batch_id)
        # where Detectron2 draws the true boxes (VIS_PERIOD), it needs them on the CPU
        truth = not getattr(getattr(self.model, "module", self.model), "vis_period", 0)
        device = self.optimizer.param_groups[0]["params"][0].device
        with self.autocast():
            return self.model(send_batch(batch, device, truth=truth))

    def _losses(self, batch: Any, micro_batch_id: int) -> dict[str, torch.Tensor]:
        """Run forward and backward, and return the losses, which hold no graph any more."""
        try:
            return self._forward_backward(batch, micro_batch_id)
        except FloatingPointError as error:
            # for boxes that are not finite: Detectron2's RPN raises it, and our pooler, which on a
            # GPU reads only in backward what it found
            traceback.clear_frames(error.__traceback__)  # they hold the activations
            raise diagnose_nonfinite(self, str(error)) from error

    def _forward_backward(self, batch: Any, micro_batch_id: int) -> dict[str, torch.Tensor]:
        losses = self.forward(batch, micro_batch_id)
        loss = reduce(torch.add, losses.values())
        self.scaler.scale(loss / len(self.micro_batch_ids)).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _advice(self) -> AbstractContextManager:
        release = self.optimizer.zero_grad
        return memory_advice(self.cfg, self.iter, self.batches[-1], release)

    def _no_sync(self) -> AbstractContextManager:
        distributed = isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync() if distributed else nullcontext()

    def _clip(self) -> torch.Tensor:
        """Clip the gradient, and return its norm from before, on its device."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.clip_norm or not hasattr(nn.utils, "get_total_norm"):  # PyTorch 2.5 has none
            return nn.utils.clip_grad_norm_(parameters, self.clip_norm or math.inf)
        return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def _report(
        self, losses_of_batches: list[dict[str, torch.Tensor]], norm: torch.Tensor, data_time: float
    ) -> float:
        """Exchange the losses between processes, and write their means in the main one.

        Returns:
            The norm of the gradient; not finite only where the step is to be skipped.
        """
        everyone = self._reports.exchange(losses_of_batches, norm, data_time, self.stop_requested)
        self.should_stop = any(of.stop_requested for of in everyone)
        names = everyone[0].losses
        losses = {name: float(np.mean([of.losses[name] for of in everyone])) for name in names}
        if not math.isfinite(sum(losses.values())):
            ranks = [
                i for i, of in enumerate(everyone) if not math.isfinite(sum(of.losses.values()))
            ]
            what = f"the loss is NaN or infinite (rank {ranks}): {losses}"
            raise diagnose_nonfinite_all_ranks(self, what, mine=comm.get_rank() in ranks)
        largest = float(np.max([of.norm for of in everyone]))  # NaN where one is
        # a loss scaler finds its scale by such steps, and skips them
        if not math.isfinite(largest) and not self._scale_may_still_fall():
            what = f"the gradient's norm is {largest}, of losses {losses}"
            raise diagnose_nonfinite_all_ranks(self, what, mine=None)
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=self.iter)
        if comm.is_main_process():
            self._warn_of_explosion(sum(losses.values()))
            slowest = max(of.data_time for of in everyone)
            storage.put_scalar("data_time", slowest, cur_iter=self.iter)
            storage.put_scalar("grad_norm", largest, cur_iter=self.iter)
            storage.put_scalar("total_loss", sum(losses.values()), cur_iter=self.iter)
            if len(losses) > 1:
                storage.put_scalars(cur_iter=self.iter, **losses)
        return largest

    def _warn_of_explosion(self, loss: float) -> None:
        if message := self._loss_watch.look(self.iter, loss):
            advice = learning_rate_advice(self.cfg, self.iter, self.learning_rate())
            logger.warning(f"{message} {advice}")

    def _scale_may_still_fall(self) -> bool:
        return self.scaler.is_enabled() and self.scaler.get_scale() > 1

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer, the scaler and the EMA, and the seed.

        The optimizer's class and the names of its parameters, in their order, are beside it.
        """
        state = super().state_dict()
        state |= {"grad_scaler": self.scaler.state_dict(), "seed": self.seed}
        state |= {"optimizer_class": optimizer_class(self.optimizer)}
        state |= {"parameters": parameter_names(self.model, self.optimizer)}
        if self.ema is not None:
            state["average"] = self.ema.state_dict()  # a key of files: it stays
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of a run, which may have had no scaler or EMA.

        The optimizer may have its parameters in other groups. One of another class begins anew,
        with a warning.

        Args:
            state_dict: What :meth:`state_dict` returned.

        Raises:
            ConfigError: The run was of another network; or it has an EMA, and this one none: then
                it would train on from the EMA.
        """
        optimizer_state = fitting_state(state_dict, self.model, self.optimizer)
        ema_state = state_dict.get("average")
        if self.ema is None and ema_state is not None:
            raise ConfigError(
                "SOLVER.EMA_DECAY is 0, but the run to resume has an average (EMA) of its weights. "
                "Set the SOLVER.EMA_DECAY of that run; or start a new run from the average, with "
                "MODEL.WEIGHTS and another OUTPUT_DIR."
            )
        super().load_state_dict({**state_dict, "optimizer": optimizer_state})
        if state_dict.get("seed") is not None:
            self.seed = state_dict["seed"]
        if self.scaler.is_enabled() and state_dict.get("grad_scaler"):
            self.scaler.load_state_dict(state_dict["grad_scaler"])
        if self.ema is not None and ema_state is not None:
            self.ema.load_state_dict(ema_state)


class MicroBatchLoader:
    """A loader that cuts the lists of another one into micro-batches.

    Args:
        loader: An iterable of lists of images.
        size: The number of images of a micro-batch.
    """

    def __init__(self, loader: Iterable[list], size: int):
        self.loader, self.size = loader, size

    def __iter__(self) -> Iterator[list]:
        for batch in self.loader:
            for start in range(0, len(batch), self.size):
                yield batch[start : start + self.size]
