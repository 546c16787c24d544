"""Advice on the learning rate, where a run explodes at its beginning."""

import statistics

from detectron2.config import CfgNode

__all__ = ["LossWatch", "learning_rate_advice"]

BEGINNING = 100  # iterations in which a learning rate shows that it is too high


def learning_rate_advice(cfg: CfgNode | None, iteration: int, learning_rate: float) -> str:
    """Return what to change where a run without warm-up explodes at its beginning; "" elsewhere.

    Args:
        cfg: A finished config. None gives no advice.
        iteration: The number of the iteration in which the explosion was seen. Before iteration 1
            no step has been made.
        learning_rate: The learning rate of that iteration.
    """
    if cfg is None or not 0 < iteration < BEGINNING or cfg.SOLVER.WARMUP_ITERS:
        return ""
    return (
        f"SOLVER.WARMUP_ITERS is 0 and the learning rate {learning_rate:g} from the first "
        "iteration on, which may be too high: set SOLVER.WARMUP_ITERS 1000 (100 for a short run), "
        "a lower SOLVER.BASE_LR, or SOLVER.CLIP_GLOBAL_NORM 10."
    )


class LossWatch:
    """Reports once when the loss explodes in the beginning of a run.

    The median of the last five losses is compared with the median of the first five, so that one or
    two bad batches are no explosion. An explosion in the very first steps would lift the latter
    too, so it counts as at most twice the loss before any step.
    """

    COUNT, FACTOR = 5, 5.0

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._reported = False

    def look(self, iteration: int, loss: float) -> str:
        """Return a sentence where the loss explodes; "" elsewhere, and after the first report.

        Args:
            iteration: The number of the iteration, from 0. A run that is resumed after the
                beginning is not watched.
            loss: The sum of all losses, finite.
        """
        if self._reported or iteration >= BEGINNING:
            return ""
        self._losses.append(loss)
        if len(self._losses) < self.COUNT:
            return ""
        usual = min(statistics.median(self._losses[: self.COUNT]), 2 * self._losses[0])
        now = statistics.median(self._losses[-self.COUNT :])
        if not now > self.FACTOR * usual > 0:
            return ""
        self._reported = True
        return (
            f"The loss explodes: {now:.4g} at iteration {iteration} is {now / usual:.0f} times "
            f"that of the first iterations ({usual:.4g})."
        )
