"""SIGTERM and SIGUSR1 (Slurm's warning before its time limit): save, and leave with a status."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from detectron2.engine import HookBase
from detectron2.utils import comm

from gn_det.engine.grad_accum import GradAccumTrainer

from .checkpoints import Checkpoints

__all__ = ["EXIT_PREEMPTED", "PreemptionHook"]

logger = logging.getLogger(__name__)

# sysexits' EX_TEMPFAIL, "try again later": the run saved and left, and --resume goes on with it
EXIT_PREEMPTED = 75
SIGNALS = [s for s in ("SIGTERM", "SIGUSR1") if hasattr(signal, s)]
# seconds in which one process that left is noticed, and the others are told
TOLD_WITHIN = 5.0


class PreemptionHook(HookBase):
    """Ends a run with status :data:`EXIT_PREEMPTED` after the step in which a signal came.

    A signal to one process is enough: they tell each other at each step. It comes after the hook
    that saves. The last hook calls :meth:`restore_handlers`, as the evaluation of the end is made
    by a hook as well. Once the run leaves, the signals are ignored.

    Args:
        steps: of the run.
        checkpoints: saves.

    """

    def __init__(self, steps: GradAccumTrainer, checkpoints: Checkpoints):
        self.steps, self.checkpoints = steps, checkpoints
        self._evaluating = False
        self._before: dict[str, object] = {}
        self._process = 0

    def before_train(self) -> None:
        """Take the signals over."""
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():  # nobody else may
            for name in SIGNALS:
                self._before[name] = signal.signal(getattr(signal, name), self._note)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Let a signal that comes inside not wait for the end: no step is at work.

        All processes enter it. One that came before is acted on as well.

        Raises:
            SystemExit: with :data:`EXIT_PREEMPTED`.
        """
        if any(comm.all_gather(self.steps.stop_requested)):
            self._leave(together=True)
        try:
            self._leave_at_once()
            yield
            # rank 0 still computes the scores: what is told to another one alone waits for a step
            self._evaluating = False
            comm.synchronize()
        except RuntimeError:
            if comm.get_world_size() > 1:
                # one that left may have broken the connection: the signal is on its way
                self._leave_at_once()
                time.sleep(TOLD_WITHIN)
            raise
        finally:
            self._evaluating = False

    def _leave_at_once(self) -> None:
        """Leave where that was asked for, and from now on as soon as it is."""
        self._evaluating = True
        if self.steps.stop_requested:
            self._leave()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # one that loads data has the handler too
            return
        # not acted on before all processes know: the others would wait for this one
        self.steps.stop_requested = True
        if self._evaluating:
            self._leave()

    def after_step(self) -> None:
        """Leave where that was asked for in any process, once a checkpoint is there.

        Raises:
            SystemExit: with :data:`EXIT_PREEMPTED`.
        """
        done = self.trainer.iter + 1
        if self.steps.leave and done < self.trainer.max_iter:
            self._leave(together=True)

    def _leave(self, together: bool = False) -> None:
        for name in self._before:  # another signal must not end what saves
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        self._before.clear()
        done = self.trainer.iter + 1
        if done % self.checkpoints.period and done < self.trainer.max_iter:
            self.checkpoints.save_now()
        if together:
            comm.synchronize()  # rank 0 saves: it could be ended once another one has
        last = min(self.trainer.iter, self.trainer.max_iter - 1)  # at the end it is further
        logger.warning(
            f"Asked to leave by a signal: stopped after iteration {last} with status "
            f"{EXIT_PREEMPTED}. --resume goes on."
        )
        raise SystemExit(EXIT_PREEMPTED)

    def restore_handlers(self) -> None:
        """Give the signals back, unless the run leaves."""
        for name, handler in self._before.items():
            signal.signal(getattr(signal, name), handler)
