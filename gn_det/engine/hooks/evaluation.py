"""The evaluations of a run, each of them made whether or not the run was stopped in it."""

import time
from collections.abc import Callable
from pathlib import Path

from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm

from gn_det.evaluation import read_metrics

__all__ = ["Evaluation"]

# in metrics.json beside the results of an evaluation: its seconds
TIME = "eval_time"


class Evaluation(EvalHook):
    """Detectron2's, and a run that was stopped in an evaluation begins with that one.

    It comes after the hook that saves.

    Args:
        period: iterations from one evaluation to the next; 0 for one at the end alone.
        evaluate: returns the results, as for ``EvalHook``.
        folder: of the run; its ``metrics.json`` says what was evaluated.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict | None], folder: str):
        def timed() -> dict | None:
            start = time.perf_counter()
            results = evaluate()
            if results:
                seconds = time.perf_counter() - start
                self.trainer.storage.put_scalar(TIME, seconds, smoothing_hint=False)
            return results

        super().__init__(period, timed)
        self._metrics = Path(folder, "metrics.json")

    def before_train(self) -> None:
        """Make up for the evaluation after the last step, where it is missing."""
        done = self.trainer.start_iter
        due = self._period > 0 and done % self._period == 0 and 0 < done < self.trainer.max_iter
        if due and not comm.all_gather(self._made(done))[0]:
            # as it was after that step; the first step sets both
            self.trainer.iter = self.trainer.storage.iter = done - 1
            self._do_eval()

    def after_train(self) -> None:
        """Evaluate at the end, where the run came to it: not after an error in its last step."""
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()

    def _made(self, done: int) -> bool:
        rows = read_metrics(self._metrics) if self._metrics.exists() else []
        return any(row["iteration"] == done - 1 and TIME in row for row in rows)
