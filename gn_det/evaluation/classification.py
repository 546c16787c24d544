"""Top-1 and top-5 error of classification.

Shapes:
    N: images
    K: classes
"""

from collections.abc import Iterable
from statistics import median

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

__all__ = ["ClassificationEvaluator", "median_of_last", "top_k_hits"]

TASK = "classification"


def top_k_hits(logits: torch.Tensor, labels: torch.Tensor, k: int) -> int:
    """Return the number of images whose label is among the k largest logits.

    Args:
        logits: The logits of shape (N, K). N may be 0.
        labels: The labels of shape (N,).
        k: The number of classes that count as the prediction. If it exceeds K, all classes count.
    """
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return int((best == labels.to(best.device).unsqueeze(1)).sum())


class ClassificationEvaluator(DatasetEvaluator):
    """Computes ``top1_error`` and ``top5_error`` in percent, over all batches and processes."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._images, self._hits = 0, {1: 0, 5: 0}

    def process(self, inputs: dict[str, torch.Tensor], outputs: torch.Tensor) -> None:
        """Count the errors of a batch. NaN logits count as errors.

        Args:
            inputs: A dict with ``label``, a tensor of shape (N,).
            outputs: The logits of shape (N, K).
        """
        logits = outputs.float().nan_to_num(nan=-torch.inf)
        known = torch.isfinite(logits).any(dim=1).cpu()
        labels = inputs["label"].masked_fill(~known, -1)
        self._images += len(labels)
        for k in self._hits:
            self._hits[k] += top_k_hits(logits, labels, k)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return the errors of all processes; NaN if there was no image."""
        parts = comm.all_gather((self._images, self._hits))
        images = sum(count for count, _ in parts)
        return {
            TASK: {
                f"top{k}_error": 100 * (1 - sum(hits[k] for _, hits in parts) / images)
                if images
                else float("nan")
                for k in self._hits
            }
        }


def median_of_last(rows: Iterable[dict[str, float]], count: int = 5) -> float | None:
    """Return the median top-1 error of the last evaluations, as the paper reports it.

    Args:
        rows: The rows of a ``metrics.json``, see :func:`gn_det.evaluation.read_metrics`. If an
            iteration was evaluated several times, the last evaluation counts.
        count: The number of evaluations.

    Returns:
        The median in percent, or None if there was no evaluation.
    """
    key = f"{TASK}/top1_error"
    errors = {row["iteration"]: row[key] for row in rows if key in row}
    last = [errors[iteration] for iteration in sorted(errors)[-count:]]
    return median(last) if last else None
