"""When a run saves, which checkpoints it keeps, and what it does when a disk says no."""

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
    """Saves every ``period`` iterations and at the end; keeps the last ones.

    It works in the main process, and does nothing in the others.

    Args:
        checkpointer: saves.
        period: iterations from one checkpoint to the next.
        keep: how many of the numbered checkpoints stay; 0 for all. ``model_final.pth`` and
            ``model_best.pth`` do not count.
        on_error: "stop" or "continue" where a checkpoint cannot be written.
        use_ema_weights: makes the context in which the model has the weights to be saved.
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
        """Read ``SOLVER.{CHECKPOINT_PERIOD, KEEP_CHECKPOINTS, ON_SAVE_ERROR}``."""
        return cls(
            checkpointer,
            cfg.SOLVER.CHECKPOINT_PERIOD,
            keep=cfg.SOLVER.KEEP_CHECKPOINTS,
            on_error=cfg.SOLVER.ON_SAVE_ERROR,
            use_ema_weights=steps.use_ema_weights,
        )

    def before_train(self) -> None:
        """Save the end of a run that was killed after its last iteration, just before that."""
        start = self.trainer.start_iter
        if start >= self.trainer.max_iter:
            # the last one done; Detectron2 counts on from it, as after its last step
            self.trainer.iter = start - 1
            self.save("model_final")

    def after_step(self) -> None:
        """Save where it is time to."""
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
        """Save ``NAME.pth``, and return whether it is there.

        Raises:
            SaveError: it could not be written, and ``on_error`` is "stop".
        """
        if not comm.is_main_process():
            return False
        try:
            with self.use_ema_weights():
                self.checkpointer.save(name, latest=latest, iteration=self.trainer.iter)
        except SaveError as error:
            last = self.checkpointer.get_checkpoint_file()
            kept = f"{last} is the last good checkpoint." if last else "There is none before it."
            if self.on_error == "stop":
                raise SaveError(
                    f"{error}. {kept} Make room or mend the folder, then go on with --resume. "
                    "(SOLVER.ON_SAVE_ERROR continue goes on without a checkpoint.)"
                ) from None
            logger.error(f"{error}. {kept} Going on, as SOLVER.ON_SAVE_ERROR says.")
            return False
        return True

    def _prune(self, just_saved: str) -> None:
        """Remove numbered checkpoints of earlier iterations, all but the last ``keep``."""
        if not self.keep:
            return
        folder = self.checkpointer.save_dir
        newest = checkpoint_iteration(just_saved)
        numbers = {name: checkpoint_iteration(name) for name in os.listdir(folder)}
        # a later one, such as a damaged one that was skipped, is not ours to remove
        mine = sorted((n, name) for name, n in numbers.items() if n is not None and n <= newest)
        for _, name in mine[: -self.keep]:
            os.unlink(os.path.join(folder, name))


class BestCheckpoint(HookBase):
    """Saves ``model_best.pth`` after an evaluation that is better than all before.

    ``model_best.json`` beside it says which iteration and value it has; a run that is resumed goes
    on from there. It comes after the hook that evaluates.

    Args:
        checkpoints: saves.
        metric: such as "bbox/AP"; the higher, the better.
        period: iterations from one evaluation to the next.
    """

    def __init__(self, checkpoints: Checkpoints, metric: str, period: int):
        self.checkpoints, self.metric, self.period = checkpoints, metric, period
        self._said = False

    def before_train(self) -> None:
        """Look at the evaluation that the run was stopped in, if it was."""
        if self.metric in self.trainer.storage.latest():
            self._look()

    def after_step(self) -> None:
        """Look at the evaluation that has just been made."""
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done < self.trainer.max_iter:
            self._look()

    def after_train(self) -> None:
        """Look at the evaluation of the end, where the run came to it."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._look()

    def _look(self) -> None:
        latest = self.trainer.storage.latest()
        if self.metric and self.metric not in latest:
            self._say_missing(latest)
        value, iteration = latest.get(self.metric, (math.nan, -1))
        path = Path(self.checkpoints.checkpointer.save_dir, "model_best.json")
        if not comm.is_main_process() or not math.isfinite(value):
            return
        # one of another metric, before it was changed, is no measure
        best = json.loads(path.read_text()).get(self.metric) if path.exists() else None
        best = -math.inf if best is None else best
        if value > best and self.checkpoints.save("model_best", latest=False):
            iteration = min(iteration, self.trainer.max_iter - 1)  # at the end it is one further
            record = {"iteration": iteration, self.metric: value}
            atomic_write(path, lambda file: file.write(json.dumps(record).encode()))
            logger.info(
                f"The best so far: {self.metric} {value:.4g} after {iteration + 1} iterations"
            )

    def _say_missing(self, latest: Iterable[str]) -> None:
        """Warn once: of two test sets, say, the metrics have the sets' names before them."""
        if self._said or not comm.is_main_process():
            return
        self._said = True
        known = [name for name in latest if name.endswith(self.metric.rpartition("/")[2])]
        logger.warning(
            f"SOLVER.BEST_METRIC {self.metric} is not among what is evaluated"
            f"{': ' + ', '.join(sorted(known)) if known else ''}. No model_best.pth is saved."
        )
