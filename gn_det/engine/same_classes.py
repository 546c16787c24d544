"""Whether the classes of weights are those of the data: class k of both has to be the same.

A checkpoint holds the names of its classes, see :class:`gn_det.checkpoint.Checkpointer`. Weights
without names, such as Detectron2's, are not compared.
"""

import logging
from collections.abc import Mapping
from typing import Any

from detectron2.utils import comm
from torch import nn

from gn_det.checkpoint import Report
from gn_det.config import ConfigError
from gn_det.data import class_names, class_names_of_file, differing_classes
from gn_det.utils import and_more

__all__ = [
    "refuse_other_classes",
    "refuse_other_classes_to_resume",
    "trained_names",
    "warn_of_other_classes",
]

logger = logging.getLogger(__name__)

Names = Mapping[str, list[str]]


def trained_names(datasets: list[str], model: nn.Module) -> dict[str, list[str]]:
    """Return the names of the classes that the heads of a model learn from training sets.

    Args:
        datasets: The names of the training sets, which are loaded and all have the same classes.
        model: The model.
    """
    names: dict[str, list[str]] = {}
    for dataset in reversed(datasets):
        names |= class_names(dataset, load=False)
    if not hasattr(model, "sem_seg_head"):
        names.pop("stuff_classes", None)
    if not getattr(getattr(model, "roi_heads", None), "keypoint_on", False):
        names.pop("keypoint_names", None)
    return names


def refuse_other_classes(
    path: str, entries: Mapping[str, Any], datasets: Mapping[str, Names]
) -> None:
    """Refuse to evaluate weights on datasets of other classes.

    A dataset may lack the last classes of the weights.

    Args:
        path: The weights, for the message.
        entries: The entries of the file.
        datasets: The names of the classes of each dataset.

    Raises:
        ConfigError: A dataset has another class at some place.
    """
    for dataset, names in datasets.items():
        for saved, wanted in _pairs(entries, names):
            known = saved[: len(wanted)]
            if found := differing_classes(known, wanted, "in the weights", f"in {dataset}"):
                raise ConfigError(
                    f"{path} was trained on other classes than {dataset} has: {found}. Every score "
                    "would be of the wrong class. Give a dataset whose classes are in the order of "
                    f"the weights' ({and_more(saved, 10)}).{_if_renamed(saved, wanted)}"
                )


def refuse_other_classes_to_resume(path: str, entries: Mapping[str, Any], names: Names) -> None:
    """Refuse to resume a run with training data of other classes.

    Args:
        path: The checkpoint, for the message.
        entries: The entries of the file.
        names: The names of the classes of the training data.

    Raises:
        ConfigError: The training data have other classes.
    """
    for saved, wanted in _pairs(entries, names):
        if found := differing_classes(saved, wanted, "in the checkpoint", "in the training data"):
            raise ConfigError(
                f"{path} cannot be resumed with other classes: {found}. Give the training data of "
                "that run; or start a new run from its weights, with MODEL.WEIGHTS and another "
                f"OUTPUT_DIR.{_if_renamed(saved, wanted)}"
            )


def warn_of_other_classes(
    path: str, entries: Mapping[str, Any], names: Names, report: Report
) -> None:
    """Say which classes a new run has to learn anew, as its weights were trained on others.

    Args:
        path: The weights, for the message.
        entries: The entries of the file.
        names: The names of the classes of the training data.
        report: How the weights fit the model.
    """
    if not comm.is_main_process():
        return
    for saved, wanted in _pairs(entries, names):
        found = differing_classes(saved, wanted, "in the weights", "in the training data")
        message = f"{path} was trained on other classes: {found}."
        if found and len(saved) != len(wanted) and report.shape_mismatch:
            logger.info(f"{message} What depends on their number starts random.")
        elif found and saved[: len(wanted)] != wanted:
            logger.warning(
                f"{message} Its predictors are loaded as they are, and have to learn the new "
                "classes."
            )


def _if_renamed(saved: list[str], wanted: list[str]) -> str:
    """Return how to say that classes were renamed, where that may be."""
    new = [theirs for ours, theirs in zip(saved, wanted) if ours != theirs]
    if not new or len(wanted) > len(saved) or not set(new).isdisjoint(saved):
        return ""
    return (
        " If the classes were only renamed, set DATASETS.IGNORE_CLASS_NAMES True (in a Python "
        "config train.ignore_class_names)."
    )


def _pairs(entries: Mapping[str, Any], names: Names) -> list[tuple[list[str], list[str]]]:
    """Return the names in a file beside those of data, where both are known."""
    known = class_names_of_file(entries)
    return [(known[key], wanted) for key, wanted in names.items() if known.get(key) and wanted]
