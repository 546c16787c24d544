"""One training step: forward and backward of each micro-batch, clip, update.

With GN, accumulating k micro-batches is the training of k times as many GPUs: each has its own
losses, and their gradients are averaged. Here such a GPU is a virtual one; its number decides which
images and which random numbers it gets, whatever process does its work.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine.train_loop import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch.nn.parallel import DistributedDataParallel

from gn_det.config import ConfigError, images_per_micro_batch
from gn_det.data import TrainStream, seed_everything
from gn_det.engine.debug.loss_explosion import LossWatch, learning_rate_advice
from gn_det.engine.debug.nonfinite import diagnose_nonfinite, diagnose_nonfinite_all_ranks
from gn_det.engine.debug.out_of_memory import memory_advice

from .ema import ModelEMA
from .optimizer_state import check_optimizer_state
from .precision import autocast, grad_scaler

__all__ = ["GradAccumTrainer", "build_grad_accum_trainer"]

logger = logging.getLogger(__name__)


def build_grad_accum_trainer(
    cfg: CfgNode, model: torch.nn.Module, data_loader: Iterable, optimizer: torch.optim.Optimizer
) -> "GradAccumTrainer":
    """Return a :class:`GradAccumTrainer` by ``SOLVER``'s batch, precision, clipping and average.

    Args:
        cfg: a finished config.
        model: returns a dict of losses for a batch.
        data_loader: a :class:`gn_det.data.TrainStream`, or one that yields a list of all images
            that a process has in a step, such as Detectron2's.
        optimizer: of the model.
    """
    world_size = comm.get_world_size()
    per_pass = images_per_micro_batch(cfg, world_size)
    num_gpus = cfg.SOLVER.IMS_PER_BATCH // per_pass
    gpus = range(comm.get_rank(), num_gpus, world_size)
    if len(gpus) > 1 and not isinstance(data_loader, TrainStream):
        data_loader = MicroBatchLoader(data_loader, per_pass)
    decay = cfg.SOLVER.EMA_DECAY
    trainer = GradAccumTrainer(
        model,
        data_loader,
        optimizer,
        micro_batch_ids=gpus,
        autocast=partial(autocast, cfg),
        scaler=grad_scaler(cfg),
        clip_norm=cfg.SOLVER.CLIP_GLOBAL_NORM,
        average=ModelEMA(getattr(model, "module", model), decay) if decay else None,
    )
    trainer.cfg = cfg
    return trainer


class GradAccumTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer with gradient accumulation, autocast on any device and clipping.

    Detectron2's AMPTrainer asserts a GPU; this one runs bfloat16 on a CPU as well.

    Args:
        model: returns a dict of losses for a batch.
        data_loader: yields micro-batches.
        optimizer: steps once for all micro-batches of a step.
        micro_batch_ids: their numbers, one micro-batch each. Those of all processes are different.
        autocast: makes the context of the forward pass.
        scaler: scales the loss of float16; None for no scaling.
        clip_norm: the gradient's norm over all parameters is clipped at it; 0 for no clipping.
        average: of the model's weights, updated after each step; None for none.

    Attributes:
        seed: of the run: each micro-batch's random numbers follow from it, the iteration and the
            virtual GPU's number. None (default) leaves them to what was drawn before.
        cfg: the finished config of which the model is built, for advice and for the file of a step
            that failed. None (default): there is none.
        batches: the micro-batches of the step at work, for a look at what went wrong.
        stop_requested: set it in any of the processes to end the run after a step.
        leave: whether that was so in the step that has just ended; the same in all processes.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        *,
        micro_batch_ids: Sequence[int] = (0,),
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        scaler: "torch.amp.GradScaler | None" = None,
        clip_norm: float = 0.0,
        average: ModelEMA | None = None,
    ):
        super().__init__(model, data_loader, optimizer)
        self.micro_batch_ids = micro_batch_ids
        self.autocast = autocast
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        self.clip_norm = clip_norm
        self.average = average
        self.seed: int | None = None
        self.cfg: CfgNode | None = None
        self.batches: list[Any] = []
        self._loss_watch = LossWatch()
        self.stop_requested = self.leave = False

    def seek_data(self, iteration: int) -> None:
        """Let the images begin where the run of :attr:`seed` has them at ``iteration``.

        A loader that is not a :class:`gn_det.data.TrainStream` begins as it does, with a warning.
        """
        if isinstance(self.data_loader, TrainStream):
            self.data_loader.seek(self.seed, iteration)
        elif iteration > 0:
            logger.warning(
                f"The images go on in another order: {type(self.data_loader).__name__} cannot be "
                "entered at a place. gn_det.engine.Trainer.build_train_loader(cfg, mapper) can."
            )

    def run_step(self) -> None:
        """Run one iteration.

        Raises:
            NonFiniteError: a loss or the gradient is NaN or infinite. It is raised in all
                processes, and before the weights are touched. The message says where it began.
            RuntimeError, MemoryError: out of memory; the message says what would help.
            WorkerDied: a process that loads images was killed; the message names the image.
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
        self.batches, passes, data_time = [], [], 0.0
        for number, gpu in enumerate(self.micro_batch_ids, start=1):
            start = time.perf_counter()
            self.batches.append(next(self._data_loader_iter))
            data_time += time.perf_counter() - start
            # gradients are averaged over processes once, in the last backward
            last = number == len(self.micro_batch_ids)
            with self._advice(), nullcontext() if last else self._no_sync():
                losses = self._losses(self.batches[-1], gpu)
                self.scaler.scale(sum(losses.values()) / len(self.micro_batch_ids)).backward()
            passes.append({name: loss.detach() for name, loss in losses.items()})
        self.after_backward()
        self.scaler.unscale_(self.optimizer)
        norm = self._clip()
        self._report(passes, norm, data_time)
        with self._advice():  # the first step makes the momentum
            self.scaler.step(self.optimizer)
        self.scaler.update()
        # the loss scaler leaves a step out whose gradient is not finite
        if self.average is not None and math.isfinite(norm):
            self.average.update()

    def use_ema_weights(self) -> AbstractContextManager:
        """Let the model have, inside, the weights to be evaluated and saved: their average."""
        return nullcontext() if self.average is None else self.average.applied()

    def learning_rate(self) -> float:
        """Return the learning rate of the largest group of parameters."""
        groups = self.optimizer.param_groups
        return max(groups, key=lambda group: sum(p.numel() for p in group["params"]))["lr"]

    def forward(self, batch: Any, gpu: int) -> dict[str, torch.Tensor]:
        """Return the losses of a micro-batch, with the random numbers of its virtual GPU."""
        if self.seed is not None:
            seed_everything(self.seed, self.iter, gpu)
        with self.autocast():
            return self.model(batch)

    def _losses(self, batch: Any, gpu: int) -> dict[str, torch.Tensor]:
        try:
            return self.forward(batch, gpu)
        except FloatingPointError as error:  # Detectron2's RPN, of boxes that are not finite
            raise diagnose_nonfinite(self, str(error)) from error

    def _advice(self) -> AbstractContextManager:
        release = self.optimizer.zero_grad
        return memory_advice(self.cfg, self.iter, self.batches[-1], release)

    def _no_sync(self) -> AbstractContextManager:
        distributed = isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync() if distributed else nullcontext()

    def _clip(self) -> float:
        """Clip the gradient, and return its norm from before."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        return float(torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm or math.inf))

    def _report(self, passes: list[dict[str, torch.Tensor]], norm: float, data_time: float) -> None:
        """Tell the losses to all processes, and write their means in the first one."""
        names = passes[0]
        mine = {name: float(torch.stack([p[name] for p in passes]).mean()) for name in names}
        everyone = comm.all_gather((mine, data_time, self.stop_requested))
        self.leave = any(leave for _, _, leave in everyone)
        losses = {name: float(np.mean([of[name] for of, _, _ in everyone])) for name in names}
        if not math.isfinite(sum(losses.values())):
            ranks = [
                i for i, (of, _, _) in enumerate(everyone) if not math.isfinite(sum(of.values()))
            ]
            what = f"the loss is NaN or infinite (rank {ranks}): {losses}"
            raise diagnose_nonfinite_all_ranks(self, what, mine=comm.get_rank() in ranks)
        # a loss scaler looks for the scale by such steps, and leaves them out
        if not math.isfinite(norm) and not self._scaler_may_still_fall():
            what = f"the gradient's norm is {norm}, of losses {losses}"
            raise diagnose_nonfinite_all_ranks(self, what, mine=None)
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=self.iter)
        if comm.is_main_process():
            self._warn_of_explosion(sum(losses.values()))
            storage.put_scalar("data_time", max(t for _, t, _ in everyone), cur_iter=self.iter)
            storage.put_scalar("grad_norm", norm, cur_iter=self.iter)
            storage.put_scalar("total_loss", sum(losses.values()), cur_iter=self.iter)
            if len(losses) > 1:
                storage.put_scalars(cur_iter=self.iter, **losses)

    def _warn_of_explosion(self, loss: float) -> None:
        if said := self._loss_watch.look(self.iter, loss):
            advice = learning_rate_advice(self.cfg, self.iter, self.learning_rate())
            logger.warning(f"{said} {advice}")

    def _scaler_may_still_fall(self) -> bool:
        return self.scaler.is_enabled() and self.scaler.get_scale() > 1

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's, the scaler's and the average's state, and the seed."""
        state = super().state_dict()
        state |= {"grad_scaler": self.scaler.state_dict(), "seed": self.seed}
        if self.average is not None:
            state["average"] = self.average.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take all back. A checkpoint of a run without a scaler or average is fine.

        Raises:
            ConfigError: the run had an average, which the model would train on from, or another
                network.
        """
        check_optimizer_state(state_dict["optimizer"], self.optimizer)
        if self.average is None and "average" in state_dict:
            raise ConfigError(
                "SOLVER.EMA_DECAY is 0, but the run to go on with had an average of its weights. "
                "Give its SOLVER.EMA_DECAY; or start a new run from the average, with "
                "MODEL.WEIGHTS and another OUTPUT_DIR."
            )
        super().load_state_dict(state_dict)
        if state_dict.get("seed") is not None:
            self.seed = state_dict["seed"]
        if self.scaler.is_enabled() and state_dict.get("grad_scaler"):
            self.scaler.load_state_dict(state_dict["grad_scaler"])
        if "average" in state_dict:
            self.average.load_state_dict(state_dict["average"])


class MicroBatchLoader:
    """A loader whose lists are cut into micro-batches."""

    def __init__(self, loader: Iterable, size: int):
        self.loader, self.size = loader, size

    def __iter__(self) -> Iterator[list]:
        for batch in self.loader:
            for start in range(0, len(batch), self.size):
                yield batch[start : start + self.size]
