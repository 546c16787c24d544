"""What becomes of the results of an evaluation: on record, and held against what was expected."""

import os
from collections import defaultdict
from collections.abc import Mapping

from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils.events import EventStorage

from .writers import build_writers

__all__ = ["by_dataset", "record_evaluation", "verify"]


def by_dataset(cfg: CfgNode, results: dict) -> dict[str, dict]:
    """Return ``{dataset: results}`` of what :meth:`Trainer.test` returns, which of one lacks it."""
    names = cfg.DATASETS.TEST
    return {names[0]: results} if len(names) == 1 else results


def record_evaluation(folder: str, results: dict, checkpoint: Mapping[str, object]) -> None:
    """Add the results to ``FOLDER/inference/metrics.json`` and to TensorBoard there.

    The training's own files are left as they are. Keys are those of an evaluation in training.

    Args:
        folder: of the run.
        results: nested, of numbers, as of :meth:`Trainer.test`.
        checkpoint: what loading it returned. Its ``iteration``, or 0, is that of the numbers.
    """
    iteration = checkpoint.get("iteration")
    iteration = iteration if isinstance(iteration, int) and iteration > 0 else 0
    writers = build_writers(os.path.join(folder, "inference"), iteration)
    with EventStorage(iteration) as storage:
        storage.put_scalars(**flatten_results_dict(results), smoothing_hint=False)
        for writer in writers:
            writer.write()
            writer.close()


def verify(cfg: CfgNode, results: Mapping[str, dict]) -> None:
    """Hold the results of each dataset against ``TEST.EXPECTED_RESULTS``.

    Raises:
        SystemExit: with status 1 where they are missed; one that was not measured is.
    """
    for of_dataset in results.values():
        verify_results(cfg, defaultdict(dict, of_dataset))
