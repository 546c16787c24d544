"""The set-up of a training, in one place: detectors, Python configs and pre-training share it.

A caller builds the model, its optimizer, the schedule of the learning rate and the data, in this
order. All that follows is here: DistributedDataParallel, precision and gradient accumulation, the
hooks and their order, resuming, training, evaluating, and the last line that a user reads::

    run = TrainingRun(cfg, model, optimizer, scheduler, loader, evaluate)
    run.trainer.register_hooks(run.build_hooks())
    run.resume_or_load(cfg.MODEL.WEIGHTS, resume=True)
    results = run.train()

To evaluate without a training: :func:`gn_det.engine.evaluate_only`.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, create_ddp_model
from detectron2.engine.hooks import IterationTimer, LRScheduler, PeriodicWriter
from detectron2.engine.train_loop import TrainerBase
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from omegaconf import DictConfig
from torch import nn

from gn_det.checkpoint import Checkpointer, Report
from gn_det.config import flatten, images_per_micro_batch
from gn_det.data import choose_seed
from gn_det.engine.hooks.checkpoints import BestCheckpoint, Checkpoints
from gn_det.engine.hooks.evaluation import Evaluation
from gn_det.engine.hooks.preemption import PreemptionHook
from gn_det.engine.hooks.progress import (
    ProgressBar,
    build_writers,
    in_terminal,
    writing_period,
)
from gn_det.evaluation import best_metric

from .configured_solver import ConfiguredSolver
from .evaluation_run import by_dataset, log_results, verify
from .grad_accum import build_grad_accum_trainer
from .run_log import release_warnings
from .run_record import MICRO_BATCH, RunRecord
from .same_classes import refuse_other_classes_to_resume, trained_names, warn_of_other_classes
from .setup import write_config

__all__ = ["TrainingRun"]

logger = logging.getLogger(__name__)


class TrainingRun:
    """One training.

    Args:
        cfg: A finished config. Read are ``SOLVER``, ``SEED``, ``OUTPUT_DIR``, ``MODEL.DEVICE``,
            ``TEST.EVAL_PERIOD`` and ``TEST.EXPECTED_RESULTS``; a ``SOLVER.BEST_METRIC`` "" saves no
            best checkpoint.
        model: The model on its device, not wrapped. It returns a dict of losses for a batch.
        optimizer: The optimizer of the model.
        scheduler: A scheduler of PyTorch, or fvcore's multiplier of the learning rate.
        data_loader: A :class:`gn_det.data.TrainStream`, which a resumed run can enter where it
            stopped, or another iterable of what ``model`` takes.
        evaluate: A function that evaluates the model, as it is trained, in all processes. It
            returns a nested dict of numbers in the main process.
        trainer: The Detectron2 trainer whose loop, hooks and state the run has; default: the
            :class:`gn_det.engine.GradAccumTrainer` that does the steps.
        ddp: Arguments of ``DistributedDataParallel``; default: no broadcast of buffers.
        class_names: The names of the classes that checkpoints hold, see
            :class:`gn_det.checkpoint.Checkpointer`; default: those of ``DATASETS.TRAIN``.
        values: The keys and values of the user's config that checkpoints record, and that a resumed
            run compares; default: those of ``cfg``.
        config: The user's config, which ``config.yaml`` gets once a run is resumed; default:
            ``cfg``.
        length_key: The key that sets the length of the run, for messages.
        **checkpointables: Other objects with a ``state_dict`` that are saved and loaded.

    Attributes:
        model: The model, wrapped where there are several processes.
        steps: The :class:`gn_det.engine.GradAccumTrainer` that does the steps.
        trainer: See above.
        checkpointer: The :class:`gn_det.checkpoint.Checkpointer` of ``OUTPUT_DIR``.
        results: The results of the last evaluation; None before the first.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        data_loader: Iterable,
        evaluate: Callable[[nn.Module], dict | None],
        *,
        trainer: TrainerBase | None = None,
        ddp: Mapping[str, Any] | None = None,
        class_names: Mapping[str, list[str]] | None = None,
        values: Mapping[str, Any] | None = None,
        config: CfgNode | DictConfig | None = None,
        length_key: str = "SOLVER.MAX_ITER",
        **checkpointables: Any,
    ):
        device_ids = None if cfg.MODEL.DEVICE == "cpu" else [comm.get_local_rank()]
        ddp = {"broadcast_buffers": False} if ddp is None else ddp
        self.model: nn.Module = create_ddp_model(model, device_ids=device_ids, **ddp)
        self.steps = build_grad_accum_trainer(cfg, self.model, data_loader, optimizer)
        self.steps.seed = choose_seed(cfg.SEED)
        self.trainer: TrainerBase = trainer or self.steps
        self.trainer.start_iter, self.trainer.max_iter = 0, cfg.SOLVER.MAX_ITER
        if class_names is None:
            class_names = trained_names(list(cfg.DATASETS.TRAIN), model)
        micro_batch = images_per_micro_batch(cfg, comm.get_world_size())
        values = dict(flatten(cfg)) if values is None else values
        self._record = RunRecord({**values, MICRO_BATCH: micro_batch})
        compared = {} if cfg.DATASETS.IGNORE_CLASS_NAMES else class_names
        self.checkpointer = Checkpointer(
            self.model,
            cfg.OUTPUT_DIR,
            cfg=cfg,
            class_names=class_names,
            # not a method of this object: a circle would hold a GPU's memory for longer
            check_file=partial(_check_file, self._record, model, compared),
            trainer=self.trainer,
            config=self._record,
            **checkpointables,
        )
        self.results: dict | None = None
        self._cfg, self._scheduler, self._evaluate = cfg, scheduler, evaluate
        self._config, self._length_key = cfg if config is None else config, length_key
        self._checkpoints = Checkpoints.from_cfg(cfg, self.checkpointer, self.steps)
        self._preemption = PreemptionHook(self.steps, self._checkpoints)

    def build_hooks(
        self,
        *,
        before_saving: Sequence[HookBase] = (),
        make_writers: Callable[[], list[EventWriter]] | None = None,
        log_period: int = 20,
    ) -> list[HookBase]:
        """Return all hooks of a run, to be registered with :attr:`trainer`.

        As with Detectron2, the last one writes: ``hooks.insert(-1, hook)`` is the place of a hook
        whose numbers are to be written.

        Args:
            before_saving: Hooks that change what a checkpoint holds, such as ``PreciseBN``.
            make_writers: A function that returns the writers of the numbers; default: lines or
                a progress bar, ``metrics.json`` and TensorBoard.
            log_period: The number of iterations from one writing to the next, where evaluations
                are not nearer to each other.
        """
        cfg = self._cfg
        period = cfg.TEST.EVAL_PERIOD
        hooks: list[HookBase] = [
            # first, to time the step without the work of the other hooks
            IterationTimer(),
            # before saving: a checkpoint holds the schedule as it is after the step
            LRScheduler(scheduler=self._scheduler),
            *before_saving,
            self._checkpoints,
            # after saving, which need not be repeated where a checkpoint is due; before evaluating,
            # which may take longer than the time that is left after a signal
            self._preemption,
            # after saving: a run that is killed in an evaluation is resumed with that one
            Evaluation(period, self._evaluate_now, cfg.OUTPUT_DIR),
            # after evaluating: it reads the result
            BestCheckpoint(self._checkpoints, best_metric(cfg), period),
        ]
        if comm.is_main_process():
            if in_terminal():
                # after evaluating: a resumed run may do so first, with a bar of its own
                hooks.append(ProgressBar())
            make = make_writers or partial(build_writers, cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER)
            # last: it writes the numbers of all other hooks
            hooks.append(PeriodicWriter(make(), writing_period(period, log_period)))
        return hooks

    def _evaluate_now(self) -> dict | None:
        with self.steps.use_ema_weights(), self._preemption.evaluating():
            self.results = self._evaluate(self.model)
        if self.results and comm.is_main_process():
            log_results(self._cfg, self.results)
        return self.results

    def resume_or_load(self, weights: str, *, resume: bool) -> None:
        """Resume from the latest whole checkpoint in ``OUTPUT_DIR``, or load weights.

        A run that is resumed ends with the weights that it would have had without a stop: on a CPU
        to the bit. The hooks have to be registered, as a checkpoint has their state.

        Keys of the config that have changed since are named, and obeyed: learning rate and
        optimizer continue as if they had had their new values from the start.

        Args:
            weights: A path or URL for a new run, see :meth:`gn_det.checkpoint.Checkpointer.load`;
                "" begins with random weights.
            resume: Whether to resume, where there is a checkpoint.

        Raises:
            FileNotFoundError: There is no such file.
            ConfigError: The checkpoint is of another network or of other classes, or a key was
                changed that a run cannot change.
            WeightsError: The weights cannot be used, or no checkpoint is whole.
        """
        trainer = self.trainer
        solver = ConfiguredSolver(self.steps.optimizer, self._scheduler)
        self.checkpointer.resume_or_load(weights, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            trainer.start_iter = trainer.iter + 1  # iter is the last one that was done
            trainer.max_iter = max(trainer.max_iter, trainer.start_iter)
            self._record.report()
            if comm.is_main_process():
                write_config(self._config, self._cfg.OUTPUT_DIR)
                if trainer.start_iter < trainer.max_iter:
                    logger.info(f"Resuming from iteration {trainer.start_iter}.")
            if self._record.solver_changed() and trainer.start_iter < trainer.max_iter:
                solver.restore(trainer.start_iter)
        elif resume and comm.is_main_process():
            logger.info(f"{self._cfg.OUTPUT_DIR} holds no checkpoint: a new run starts.")
        self.steps.seek_data(trainer.start_iter)

    def train(self) -> dict | None:
        """Train to the end.

        Returns:
            The results of the last evaluation; of processes other than the main one, what
            ``evaluate`` returns there.

        Raises:
            SystemExit: With status 75 after a signal, 130 after Ctrl-C; with status 1 where
                ``TEST.EXPECTED_RESULTS`` is missed.
        """
        trainer = self.trainer
        self._say_what_is_left()
        release_warnings()  # here they are seen
        try:
            # not trainer.train(): that of gn_det.engine.Trainer calls this method
            TrainerBase.train(trainer, trainer.start_iter, trainer.max_iter)
        finally:
            # not by a hook: a signal may come while any hook works at the end
            self._preemption.restore_handlers()
        if comm.is_main_process():
            folder = self._cfg.OUTPUT_DIR
            logger.info(
                f"Trained for {trainer.max_iter:,} iterations. The weights are in "
                f"{os.path.join(folder, 'model_final.pth')}, all numbers in "
                f"{os.path.join(folder, 'metrics.json')}."
            )
            verify(self._cfg, by_dataset(self._cfg, self.results or {}))
        return self.results

    def _say_what_is_left(self) -> None:
        """Say that nothing is left to do, or that the warm-up is as long as the run."""
        if not comm.is_main_process():
            return
        solver, done = self._cfg.SOLVER, self.trainer.start_iter
        if done >= self.trainer.max_iter:
            logger.warning(
                f"Nothing is left to train: the run has done {done} iterations, and its length is "
                f"{solver.MAX_ITER}. A larger {self._length_key} continues it."
            )
        elif solver.WARMUP_ITERS >= solver.MAX_ITER and isinstance(self._scheduler, LRMultiplier):
            logger.warning(
                f"SOLVER.MAX_ITER is {solver.MAX_ITER} and SOLVER.WARMUP_ITERS "
                f"{solver.WARMUP_ITERS}: the learning rate rises to the end of the run, and never "
                f"reaches SOLVER.BASE_LR {solver.BASE_LR:g}. Set a smaller SOLVER.WARMUP_ITERS."
            )


def _check_file(
    record: RunRecord,
    model: nn.Module,
    class_names: Mapping[str, list[str]],
    path: str,
    entries: dict[str, Any],
    report: Report,
    resumed: bool,
) -> None:
    if resumed:
        refuse_other_classes_to_resume(path, entries, class_names)
        record.compare(entries, report, model)
    else:
        warn_of_other_classes(path, entries, class_names, report)
