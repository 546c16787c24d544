"""Ctrl-C, SIGTERM and SIGUSR1 (Slurm's warning before its time limit): save, stop with a status."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from types import FrameType
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from gn_det.engine.errors import RunStopped
from gn_det.engine.grad_accum import GradAccumTrainer
from gn_det.engine.interrupt import EXIT_INTERRUPTED, announce_stop, leave_at_once, postponed

from .checkpoints import Checkpoints

__all__ = ["EXIT_PREEMPTED", "PreemptionHook"]

logger = logging.getLogger(__name__)

# sysexits' EX_TEMPFAIL, "try again later": the run saved and stopped, and can be resumed
EXIT_PREEMPTED = 75
SIGNALS = [s for s in ("SIGTERM", "SIGUSR1") if hasattr(signal, s)]
# seconds until a process that stopped is noticed, and the others have the signal too
SIGNAL_DELAY = 5.0


class PreemptionHook(HookBase):
    """Stops a run with status :data:`EXIT_PREEMPTED` after the step in which a signal came.

    After Ctrl-C the status is 130. A signal to any one process stops all: they exchange it at each
    step. Once the run stops, further signals are ignored, but a second Ctrl-C ends the process at
    once. Who trains calls :meth:`restore_handlers` at the end.

    Args:
        steps: The trainer that does the steps of the run.
        checkpoints: The hook that saves. It comes before this one.
    """

    def __init__(self, steps: GradAccumTrainer, checkpoints: Checkpoints):
        self.steps, self.checkpoints = steps, checkpoints
        self._evaluating = False
        self._handlers_before: dict[str, Any] = {}
        self._process, self._status = 0, EXIT_PREEMPTED

    def before_train(self) -> None:
        """Handle the signals from now on."""
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():  # Python allows no other
            for name in (*SIGNALS, "SIGINT"):
                handler = signal.getsignal(getattr(signal, name))
                if name != "SIGINT" or handler != signal.SIG_IGN:  # as it is behind nohup
                    self._handlers_before[name] = handler
                    signal.signal(getattr(signal, name), self._on_signal)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Stop at once when a signal comes inside, as no step is at work that has to end.

        All processes enter it. A signal that came before is obeyed too.

        Raises:
            RunStopped: The run stops.
        """
        if any(comm.all_gather(self.steps.stop_requested)):
            self._stop(together=True)
        try:
            self._stop_at_once()
            yield
            # rank 0 still computes the scores: a signal to another process waits for the next step
            self._evaluating = False
            comm.synchronize()
        except RuntimeError:
            if comm.get_world_size() > 1:
                # the connection may have broken since another process stopped: its signal follows
                self._stop_at_once()
                time.sleep(SIGNAL_DELAY)
            raise
        finally:
            self._evaluating = False

    def _stop_at_once(self) -> None:
        """Stop now, if that was requested, and from now on as soon as it is."""
        self._evaluating = True
        if self.steps.stop_requested:
            self._stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # a worker that loads data inherits the handler
        if os.getpid() != self._process or postponed(number, frame):
            return
        if number == signal.SIGINT:
            if self._status == EXIT_INTERRUPTED:
                leave_at_once()
            self._status = EXIT_INTERRUPTED
            if comm.is_main_process() and not self._evaluating:
                announce_stop()
        # in a step all processes have to agree first: the others would wait for this one
        self.steps.stop_requested = True
        if self._evaluating:
            self._stop()

    def after_step(self) -> None:
        """Stop where that was requested in any process, once a checkpoint is there.

        Raises:
            RunStopped: The run stops.
        """
        done = self.trainer.iter + 1
        if self.steps.should_stop and done < self.trainer.max_iter:
            self._stop(together=True)

    def _stop(self, together: bool = False) -> None:
        for name in self._handlers_before:  # another signal must not interrupt the saving
            again = leave_at_once if name == "SIGINT" else signal.SIG_IGN
            signal.signal(getattr(signal, name), again)
        self._handlers_before.clear()
        done = self.trainer.iter + 1
        if done % self.checkpoints.period and done < self.trainer.max_iter:
            self.checkpoints.save_now()
        if together:
            comm.synchronize()  # rank 0 saves: it could be killed once another process has ended
        last = min(self.trainer.iter, self.trainer.max_iter - 1)  # one further at the end of a run
        cause = "Ctrl-C" if self._status == EXIT_INTERRUPTED else "a signal"
        # of several processes the one that started them has the last word
        status = "" if parent_process() else f", with status {self._status}"
        logger.info(
            f"Stopped by {cause} after iteration {last}{status}: "
            f"{self.checkpoints.checkpointer.get_checkpoint_file()} is saved."
        )
        raise RunStopped(self._status)

    def restore_handlers(self) -> None:
        """Restore the handlers from before the run, unless it was stopped by a signal."""
        for name, handler in self._handlers_before.items():
            signal.signal(getattr(signal, name), handler)
        self._handlers_before.clear()
