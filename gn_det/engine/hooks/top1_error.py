"""The error on the training images during training: what the paper's training curves show."""

from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from gn_det.modeling.classifier import ImageClassifier

__all__ = ["TrainingError"]


class TrainingError(HookBase):
    """Writes ``training/top1_error`` in percent, over all images since the last writing.

    It comes before the hook that saves, so that a checkpoint has what was counted.

    Args:
        model: The model, not wrapped, which counts.
        period: The number of iterations from one writing to the next.
    """

    def __init__(self, model: ImageClassifier, period: int):
        self.model, self.period = model, period

    def after_step(self) -> None:
        """Write, and reset the counts, where a period ends."""
        if (self.trainer.iter + 1) % self.period:
            return
        mine = self.model.seen, int(self.model.hits)
        seen, hits = map(sum, zip(*comm.all_gather(mine)))
        error = 100 * (1 - hits / seen)
        self.trainer.storage.put_scalar("training/top1_error", error, smoothing_hint=False)
        self.model.seen = self.model.hits = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the counts of this process."""
        return {"seen": self.model.seen, "hits": int(self.model.hits)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the counts of this process.

        Args:
            state_dict: What :meth:`state_dict` returned.
        """
        self.model.seen, self.model.hits = state_dict["seen"], state_dict["hits"]
