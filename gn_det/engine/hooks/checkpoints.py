"""When a run saves, which checkpoints it keeps, and what it does when the disk is full."""

import json
import logging
import math
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from gn_det.checkpoint import Checkpointer, checkpoint_iteration
from gn_det.engine.grad_accum import GradAccumTrainer
from gn_det.utils import SaveError, atomic_write

__all__ = ["BestCheckpoint", "Checkpoints"]

logger = logging.getLogger(__name__)


class Checkpoints(HookBase):
    """Saves every ``period`` iterations and at the end, in the main process; keeps the last ones.

    Args:
        checkpointer: The checkpointer of the run.
        period: The number of iterations from one checkpoint to the next.
        keep: The number of numbered checkpoints that stay; 0 for all. ``model_final.pth`` and
            ``model_best.pth`` do not count.
        on_error: What to do where a checkpoint cannot be written: "stop" or "continue".
        use_ema_weights: A function that makes the context in which the model has the weights to
            save.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        period: int,
        *,
        keep: int = 0,
        on_error: str = "stop",
        use_ema_weights: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.checkpointer, self.period = checkpointer, period
        self.keep, self.on_error, self.use_ema_weights = keep, on_error, use_ema_weights

    @classmethod
    def from_cfg(
        cls, cfg: CfgNode, checkpointer: Checkpointer, steps: GradAccumTrainer
    ) -> "Checkpoints":
        """Return the hook with ``SOLVER.{CHECKPOINT_PERIOD, KEEP_CHECKPOINTS, ON_SAVE_ERROR}``.

        Args:
            cfg: A finished config.
            checkpointer: The checkpointer of the run.
            steps: The trainer that does the steps, which may have an EMA of the weights.
        """
        return cls(
            checkpointer,
            cfg.SOLVER.CHECKPOINT_PERIOD,
            keep=cfg.SOLVER.KEEP_CHECKPOINTS,
            on_error=cfg.SOLVER.ON_SAVE_ERROR,
            use_ema_weights=steps.use_ema_weights,
        )

    def before_train(self) -> None:
        """Save ``model_final`` of a run that was killed between its last iteration and that."""
        start = self.trainer.start_iter
        if start >= self.trainer.max_iter:
            # the last iteration that was done; Detectron2 adds 1, as after its last step
            self.trainer.iter = start - 1
            self.save("model_final")

    def after_step(self) -> None:
        """Save, where a period or the training ends."""
        done = self.trainer.iter + 1
        if done % self.period == 0:
            self.save_now()
        if done == self.trainer.max_iter:
            self.save("model_final")

    def save_now(self) -> None:
        """Save the state after the iteration that has just ended."""
        name = f"model_{self.trainer.iter:07d}"
        if self.save(name):
            self._prune(f"{name}.pth")

    def save(self, name: str, *, latest: bool = True) -> bool:
        """Save ``NAME.pth``.

        Args:
            name: The name of the file, without ``.pth``.
            latest: Whether a resumed run starts from it.

        Returns:
            Whether it was written; False in processes other than the main one.

        Raises:
            SaveError: It could not be written, and ``on_error`` is "stop".
        """
        if not comm.is_main_process():
            return False
        try:
            with self.use_ema_weights():
                self.checkpointer.save(name, latest=latest, iteration=self.trainer.iter)
        except SaveError as error:
            last = self.checkpointer.get_checkpoint_file()
            good = f"{last} is the last good checkpoint." if last else "There is none before it."
            if self.on_error == "stop":
                raise SaveError(
                    f"{error}. {good} Free some space or repair the folder, then use --resume. "
                    "(SOLVER.ON_SAVE_ERROR continue trains on without a checkpoint.)"
                ) from None
            logger.error(f"{error}. {good} Training on, as SOLVER.ON_SAVE_ERROR is continue.")
            return False
        return True

    def _prune(self, just_saved: str) -> None:
        """Remove numbered checkpoints of earlier iterations, all but the last ``keep``."""
        if not self.keep:
            return
        folder = self.checkpointer.save_dir
        numbers = {name: checkpoint_iteration(name) for name in os.listdir(folder)}
        known = sorted((n, name) for name, n in numbers.items() if n is not None)
        # a later one, such as a damaged one that was skipped, is not this run's to remove
        so_far = known[: [name for _, name in known].index(just_saved) + 1]
        for _, name in so_far[: -self.keep]:
            os.unlink(os.path.join(folder, name))


class BestCheckpoint(HookBase):
    """Saves ``model_best.pth`` after an evaluation that is better than all before.

    ``model_best.json`` beside it has its iteration and value, which a resumed run compares with. It
    comes after the hook that evaluates.

    Args:
        checkpoints: The hook that saves.
        metric: The name of the number to maximize, such as "bbox/AP"; "" saves none.
        period: The number of iterations from one evaluation to the next.
    """

    def __init__(self, checkpoints: Checkpoints, metric: str, period: int):
        self.checkpoints, self.metric, self.period = checkpoints, metric, period
        self._warned = False

    def before_train(self) -> None:
        """Compare the evaluation that the run was stopped in, if it was."""
        if self.metric in self.trainer.storage.latest():
            self._compare()

    def after_step(self) -> None:
        """Compare the evaluation after this step."""
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done < self.trainer.max_iter:
            self._compare()

    def after_train(self) -> None:
        """Compare the evaluation of the end, where the run came to it."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._compare()

    def _compare(self) -> None:
        latest = self.trainer.storage.latest()
        if self.metric and self.metric not in latest:
            self._warn_missing(latest)
        value, iteration = latest.get(self.metric, (math.nan, -1))
        path = Path(self.checkpoints.checkpointer.save_dir, "model_best.json")
        if not comm.is_main_process() or not math.isfinite(value):
            return
        # the value of another metric, before the key was changed, does not count
        best = (
            json.loads(path.read_text(encoding="utf-8")).get(self.metric) if path.exists() else None
        )
        best = -math.inf if best is None else best
        if value > best and self.checkpoints.save("model_best", latest=False):
            iteration = min(iteration, self.trainer.max_iter - 1)  # one further at the end
            record = {"iteration": iteration, self.metric: value}
            atomic_write(path, lambda file: file.write(json.dumps(record).encode()))
            logger.info(
                f"The best so far: {self.metric} {value:.4g} after {iteration + 1} iterations"
            )

    def _warn_missing(self, latest: Iterable[str]) -> None:
        """Warn once; of two test sets, for example, the metrics begin with the sets' names."""
        if self._warned or not comm.is_main_process():
            return
        self._warned = True
        known = [name for name in latest if name.endswith(self.metric.rpartition("/")[2])]
        logger.warning(
            f"SOLVER.BEST_METRIC {self.metric} is not among what is evaluated"
            f"{': ' + ', '.join(sorted(known)) if known else ''}. No model_best.pth is saved."
        )
