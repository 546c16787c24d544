"""An evaluation without a training: what is loaded, what is written, what is expected."""

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from gn_det.checkpoint import Checkpointer
from gn_det.config import ConfigError
from gn_det.data import class_names
from gn_det.engine.hooks.progress import build_writers

from .run_log import release_warnings
from .same_classes import refuse_other_classes

__all__ = [
    "by_dataset",
    "evaluate_only",
    "load_to_evaluate",
    "log_results",
    "record_evaluation",
    "verify",
]

logger = logging.getLogger(__name__)


def evaluate_only(
    cfg: CfgNode,
    model: nn.Module,
    evaluate: Callable[[nn.Module], dict | None],
    weights: str,
    *,
    resume: bool = False,
    key: str = "MODEL.WEIGHTS",
    report: Callable[[dict[str, dict]], None] | None = None,
    datasets: Mapping[str, Mapping[str, list[str]]] | None = None,
) -> dict | None:
    """Load a whole model, evaluate it, and record the results in ``OUTPUT_DIR/inference``.

    Args:
        cfg: A finished config. Read are ``OUTPUT_DIR``, ``DATASETS.TEST``,
            ``DATASETS.IGNORE_CLASS_NAMES`` and ``TEST.EXPECTED_RESULTS``; weights that say how they
            were trained are checked against ``MODEL`` and ``INPUT``.
        model: The model on its device, with any weights.
        evaluate: A function that evaluates the model in all processes. It returns a nested dict of
            numbers in the main process.
        weights: A path or URL, see :meth:`gn_det.checkpoint.Checkpointer.load`.
        resume: Whether to take the latest checkpoint of ``OUTPUT_DIR``, where there is one.
        key: The config key or option that names ``weights``, for messages.
        report: A function that shows the results of each dataset in the main process, once they
            are on the disk.
        datasets: The names of the classes of each dataset, by the entry of a checkpoint that holds
            such names; default: those of ``DATASETS.TEST``.

    Returns:
        What ``evaluate`` returns.

    Raises:
        ConfigError: There is nothing to load, or the weights are of other classes than a dataset.
        FileNotFoundError: There is no such file.
        WeightsError: The file cannot be used, or lacks a part of the model.
        SystemExit: With status 1 where ``TEST.EXPECTED_RESULTS`` is missed.
    """
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, cfg=cfg)
    checkpoint = load_to_evaluate(checkpointer, weights, resume=resume, key=key, datasets=datasets)
    release_warnings()  # here they are seen
    results = evaluate(model)
    if results and comm.is_main_process():
        record_evaluation(cfg.OUTPUT_DIR, results, checkpoint)
        if report is None:
            log_results(cfg, results)
        else:
            report(by_dataset(cfg, results))
        metrics = os.path.join(cfg.OUTPUT_DIR, "inference", "metrics.json")
        logger.info(f"The results are in {metrics}.")
        verify(cfg, by_dataset(cfg, results))
    return results


def load_to_evaluate(
    checkpointer: Checkpointer,
    weights: str,
    *,
    resume: bool = False,
    key: str = "MODEL.WEIGHTS",
    datasets: Mapping[str, Mapping[str, list[str]]] | None = None,
) -> dict[str, Any]:
    """Load the whole model of ``checkpointer``; what would be random is refused.

    Args:
        checkpointer: The checkpointer of the model. Where it has a config, the classes of the
            weights are compared, unless ``DATASETS.IGNORE_CLASS_NAMES``.
        weights: A path or URL, see :meth:`gn_det.checkpoint.Checkpointer.load`.
        resume: Whether to take the latest checkpoint of the folder, where there is one.
        key: The config key or option that names ``weights``, for messages.
        datasets: See :func:`evaluate_only`.

    Returns:
        What else the file holds, such as the iteration.

    Raises:
        ConfigError: There is nothing to load, or the weights are of other classes than a dataset.
        FileNotFoundError: There is no such file.
        WeightsError: The file cannot be used, or lacks a part of the model.
    """
    resume = resume and checkpointer.has_checkpoint()
    if not weights and not resume:
        raise ConfigError(
            f"There is nothing to evaluate: {key} is empty, and no run is named by --resume and "
            "its folder."
        )
    cfg = checkpointer.cfg
    if cfg is not None and not cfg.DATASETS.IGNORE_CLASS_NAMES:
        if datasets is None:
            datasets = {name: class_names(name) for name in cfg.DATASETS.TEST}
        checkpointer.check_file = partial(_refuse_other_classes, datasets)
    checkpointer.whole = True
    return checkpointer.resume_or_load(weights, resume=resume)


def _refuse_other_classes(
    datasets: Mapping[str, Mapping[str, list[str]]], path: str, entries: dict[str, Any], *_: object
) -> None:
    refuse_other_classes(path, entries, datasets)


def record_evaluation(folder: str, results: dict, checkpoint: Mapping[str, object]) -> None:
    """Add the results to ``FOLDER/inference/metrics.json`` and to TensorBoard there.

    The training's own files stay as they are. The keys are those of an evaluation in training.

    Args:
        folder: The folder of the run.
        results: A nested dict of numbers, as :meth:`gn_det.engine.Trainer.test` returns it.
        checkpoint: What loading the checkpoint returned. The numbers are recorded at its
            ``iteration``; at 0 where it has none.
    """
    iteration = checkpoint.get("iteration")
    iteration = iteration if isinstance(iteration, int) and iteration > 0 else 0
    writers = build_writers(os.path.join(folder, "inference"), iteration)
    with EventStorage(iteration) as storage:
        storage.put_scalars(**flatten_results_dict(results), smoothing_hint=False)
        for writer in writers:
            writer.write()
            writer.close()


def log_results(cfg: CfgNode, results: dict) -> None:
    """Log the results of an evaluation, a line for each dataset and task; classes are left out.

    Args:
        cfg: The config with ``DATASETS.TEST``.
        results: The results, as :meth:`gn_det.engine.Trainer.test` returns them.
    """
    # those of pre-training are of no registered dataset
    for name, tasks in (by_dataset(cfg, results) or {"val": results}).items():
        for task, values in tasks.items():
            numbers = [f"{k} {x:.2f}" for k, x in values.items() if "-" not in k and x == x]
            logger.info(f"{name} {task}: {', '.join(numbers)}")


def by_dataset(cfg: CfgNode, results: dict) -> dict[str, dict]:
    """Return ``{dataset: results}``; the results of a single dataset come without its name.

    Args:
        cfg: The config with ``DATASETS.TEST``.
        results: The results, as :meth:`gn_det.engine.Trainer.test` returns them.
    """
    names = cfg.DATASETS.TEST
    return results if len(names) > 1 else dict.fromkeys(names, results)


def verify(cfg: CfgNode, results: Mapping[str, dict]) -> None:
    """Compare the results of each dataset with ``TEST.EXPECTED_RESULTS``.

    With test-time augmentation, an entry for "bbox_TTA", as in Detectron2's configs, is compared
    with "bbox" where the results have no other: those of finished weights.

    Args:
        cfg: The config with ``TEST.EXPECTED_RESULTS``.
        results: ``{dataset: results}``, see :func:`by_dataset`.

    Raises:
        SystemExit: With status 1 where a result is missed, or was not measured.
    """
    for of_dataset in results.values():
        augmented = {f"{task}_TTA": v for task, v in of_dataset.items() if cfg.TEST.AUG.ENABLED}
        verify_results(cfg, defaultdict(dict, augmented | of_dataset))
