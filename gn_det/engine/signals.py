"""SIGTERM and SIGUSR1 (Slurm's warning before its time limit): save, and leave with a status."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from detectron2.engine import HookBase

from .checkpoints import Checkpoints
from .step import StepTrainer

__all__ = ["SAVED_AND_LEFT", "LeaveOnSignal"]

logger = logging.getLogger(__name__)

# sysexits' EX_TEMPFAIL, "try again later": the run saved and left, and --resume goes on with it
SAVED_AND_LEFT = 75
SIGNALS = [s for s in ("SIGTERM", "SIGUSR1") if hasattr(signal, s)]


class LeaveOnSignal(HookBase):
    """Ends a run with status :data:`SAVED_AND_LEFT` after the step in which a signal came.

    A signal to one process is enough: they tell each other at each step. It comes after the hook
    that saves.

    Args:
        steps: of the run.
        checkpoints: saves.

    """

    def __init__(self, steps: StepTrainer, checkpoints: Checkpoints):
        self.steps, self.checkpoints = steps, checkpoints
        self._evaluating = False
        self._before: dict[str, object] = {}

    def before_train(self) -> None:
        """Take the signals over."""
        if threading.current_thread() is threading.main_thread():  # nobody else may
            for name in SIGNALS:
                self._before[name] = signal.signal(getattr(signal, name), self._note)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Let a signal that comes inside not wait for the end: no step is at work."""
        self._evaluating = True
        try:
            yield
        finally:
            self._evaluating = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        # not acted on before all processes know: the others would wait for this one
        self.steps.leave_asked = True
        if self._evaluating:
            self._leave()

    def after_step(self) -> None:
        """Leave where that was asked for in any process, once a checkpoint is there.

        Raises:
            SystemExit: with :data:`SAVED_AND_LEFT`.
        """
        done = self.trainer.iter + 1
        if self.steps.leave and done < self.trainer.max_iter:
            self._leave()

    def _leave(self) -> None:
        done = self.trainer.iter + 1
        if done % self.checkpoints.period and done < self.trainer.max_iter:
            self.checkpoints.save_now()
        logger.warning(
            f"Asked to leave by a signal: stopped after iteration {self.trainer.iter} with status "
            f"{SAVED_AND_LEFT}. --resume goes on."
        )
        raise SystemExit(SAVED_AND_LEFT)

    def after_train(self) -> None:
        """Give the signals back."""
        for name, handler in self._before.items():
            signal.signal(getattr(signal, name), handler)
