"""Top-1 and top-5 error of classification."""

from collections.abc import Iterable
from statistics import median

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

__all__ = ["ClassificationEvaluator", "median_of_last", "top_k_hits"]

TASK = "classification"


def top_k_hits(logits: torch.Tensor, labels: torch.Tensor, k: int) -> int:
    """Return for how many images the label is among the k largest logits.

    Args:
        logits: (N, K), N may be 0.
        labels: (N).
        k: more than there are classes counts as all of them.
    """
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return int((best == labels.to(best.device).unsqueeze(1)).sum())


class ClassificationEvaluator(DatasetEvaluator):
    """Counts over all batches, of all processes: ``top1_error`` and ``top5_error`` in percent."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self._images, self._hits = 0, {1: 0, 5: 0}

    def process(self, inputs: dict[str, torch.Tensor], outputs: torch.Tensor) -> None:
        """Count a batch; NaN logits are a miss.

        Args:
            inputs: its ``label`` (N).
            outputs: logits (N, K).
        """
        logits = outputs.float().nan_to_num(nan=-torch.inf)
        known = torch.isfinite(logits).any(dim=1).cpu()
        labels = inputs["label"].masked_fill(~known, -1)
        self._images += len(labels)
        for k in self._hits:
            self._hits[k] += top_k_hits(logits, labels, k)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return the errors; NaN where there was no image."""
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
        rows: of a ``metrics.json``, see :func:`gn_det.evaluation.read_metrics`. Of several
            evaluations at one iteration the last counts.
        count: how many evaluations.
    """
    key = f"{TASK}/top1_error"
    errors = {row["iteration"]: row[key] for row in rows if key in row}
    last = [errors[iteration] for iteration in sorted(errors)[-count:]]
    return median(last) if last else None
