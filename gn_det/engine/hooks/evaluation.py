"""The evaluations of a run, complete even where the run was stopped in one."""

import time
from collections.abc import Callable
from pathlib import Path

from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm

from gn_det.evaluation import read_metrics

__all__ = ["Evaluation"]

TIME = "eval_time"  # in metrics.json beside the results of an evaluation: its seconds


class Evaluation(EvalHook):
    """Detectron2's EvalHook; a run that was stopped in an evaluation begins with that one.

    It comes after the hook that saves.

    Args:
        period: The number of iterations from one evaluation to the next; 0: one at the end.
        evaluate: A function that evaluates the model and returns the results, as of ``EvalHook``.
        folder: The folder of the run, whose ``metrics.json`` has the evaluations that were made.
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
        """Evaluate, where the evaluation after the last step is missing."""
        done = self.trainer.start_iter
        due = self._period > 0 and done % self._period == 0 and 0 < done < self.trainer.max_iter
        if due and not comm.all_gather(self._is_recorded(done))[0]:
            # as it was after that step; the first step sets both
            self.trainer.iter = self.trainer.storage.iter = done - 1
            self._do_eval()

    def after_train(self) -> None:
        """Evaluate at the end, where the run came to it: not after an error in its last step."""
        self._eval_after_train = self.trainer.iter >= self.trainer.max_iter
        super().after_train()  # it lets go of the function as well, and so of the model

    def _is_recorded(self, done: int) -> bool:
        rows = read_metrics(self._metrics) if self._metrics.exists() else []
        return any(row["iteration"] == done - 1 and TIME in row for row in rows)
