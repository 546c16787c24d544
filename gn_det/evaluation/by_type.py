"""The evaluators of a dataset, chosen by the ``evaluator_type`` of its metadata."""

import contextlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)
from detectron2.utils.file_io import PathManager
from PIL import Image

from gn_det.config.detection_limit import COCO_LIMIT
from gn_det.data import DatasetError
from gn_det.utils import did_you_mean

from .coco import COCOEvaluator

__all__ = ["EVALUATORS", "Score", "build_evaluator", "scores_of"]

LVIS_LIMIT = 300  # the detections of an image that LVIS's AP counts
INSTALL = {
    "lvis": "pip install lvis",
    "panopticapi": "pip install git+https://github.com/cocodataset/panopticapi.git",
    "cityscapesscripts": "pip install cityscapesscripts",
}


class Score(NamedTuple):
    """One evaluator of a dataset.

    Attributes:
        evaluator: The class.
        needs: The outputs of a model, one of which is scored.
        package: The package that it imports; "" for none but gn_det's own.
        metadata: The key that the dataset's metadata needs for it; "" for none.
    """

    evaluator: type[DatasetEvaluator]
    needs: tuple[str, ...]
    package: str = ""
    metadata: str = ""


_COCO = Score(COCOEvaluator, ("instances", "proposals"))
_SEM_SEG = Score(SemSegEvaluator, ("sem_seg",))
_PANOPTIC = Score(COCOPanopticEvaluator, ("panoptic_seg",), "panopticapi")
_CITY_INSTANCE = Score(CityscapesInstanceEvaluator, ("instances",), "cityscapesscripts")
_CITY_SEM_SEG = Score(CityscapesSemSegEvaluator, ("sem_seg",), "cityscapesscripts")

# As in Detectron2's tools/train_net.py, and of cityscapes_panoptic_seg as in its Panoptic-DeepLab.
EVALUATORS: dict[str, tuple[Score, ...]] = {
    "coco": (_COCO,),
    # only the annotations with separate files of semantic segmentation have sem_seg_root
    "coco_panoptic_seg": (_SEM_SEG._replace(metadata="sem_seg_root"), _COCO, _PANOPTIC),
    "sem_seg": (_SEM_SEG,),
    "lvis": (Score(LVISEvaluator, ("instances", "proposals"), "lvis"),),
    "pascal_voc": (Score(PascalVOCDetectionEvaluator, ("instances",)),),
    "cityscapes_instance": (_CITY_INSTANCE,),
    "cityscapes_sem_seg": (_CITY_SEM_SEG,),
    "cityscapes_panoptic_seg": (_PANOPTIC, _CITY_SEM_SEG, _CITY_INSTANCE),
}


def scores_of(dataset_name: str) -> list[Score]:
    """Return the evaluators of a dataset; a dataset without an ``evaluator_type`` has COCO's.

    Args:
        dataset_name: The name of a registered dataset.

    Raises:
        DatasetError: The ``evaluator_type`` is unknown, or a package is not installed.
    """
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type") or "coco"
    if kind not in EVALUATORS:
        raise DatasetError(
            f"{dataset_name}: its metadata has the evaluator_type {kind!r}, which is unknown."
            f"{did_you_mean(str(kind), EVALUATORS)} Known are {', '.join(EVALUATORS)}. For an "
            "evaluator of your own, override Trainer.build_evaluator."
        )
    scores = [s for s in EVALUATORS[kind] if not s.metadata or metadata.get(s.metadata)]
    missing = {s.package: None for s in scores if s.package and not _is_installed(s.package)}
    if missing:
        raise DatasetError(
            f"{dataset_name}: its evaluator_type {kind} needs {' and '.join(missing)}. Install it: "
            f"{' && '.join(INSTALL[package] for package in missing)}"
        )
    return scores


def _read_labels(filename: str, dtype: Any = None) -> np.ndarray:
    # Detectron2's own function asks for an array without a copy, which NumPy 2 refuses
    with PathManager.open(filename, "rb") as file:
        return np.array(Image.open(file), dtype=dtype)


def _is_installed(package: str) -> bool:
    names = ["hotcoco", "lvis"] if package == "lvis" else [package]
    return any(importlib.util.find_spec(name) for name in names)


def _build_lvis(dataset_name: str, **options: Any) -> LVISEvaluator:
    """Build Detectron2's evaluator with hotcoco in place of the package lvis, if it is there.

    lvis 0.5.3 fails at the end of an evaluation with NumPy 1.24 and later. Both give the same.
    """
    with contextlib.suppress(ImportError):
        import hotcoco  # not on every platform

        hotcoco.init_as_lvis()
    return LVISEvaluator(dataset_name, **options)


def build_evaluator(
    dataset_name: str,
    output_dir: str | None,
    scorer: str = "fast",
    *,
    max_detections: int = COCO_LIMIT,
    keypoint_sigmas: Sequence[float] = (),
) -> DatasetEvaluator:
    """Build the evaluator of a dataset, by the ``evaluator_type`` of its metadata.

    COCO's boxes, masks, keypoints and proposals are scored by :class:`COCOEvaluator`, all else by
    Detectron2's evaluators.

    Args:
        dataset_name: The name of a registered dataset.
        output_dir: The folder for the files of the evaluator; None writes none.
        scorer: "fast" or "pycocotools"; see :func:`gn_det.evaluation.score`.
        max_detections: See :func:`gn_det.evaluation.score`. LVIS's limit is this one where it is
            above LVIS's own, 300.
        keypoint_sigmas: See :func:`gn_det.evaluation.score`.

    Returns:
        The evaluator, or a ``DatasetEvaluators`` of several.

    Raises:
        DatasetError: The ``evaluator_type`` is unknown, a package is not installed, or the dataset
            is unknown, missing or cannot be read.
        ValueError: The scorer is unknown.
    """
    make: dict[type, Callable[[], DatasetEvaluator]] = {
        COCOEvaluator: partial(
            COCOEvaluator,
            dataset_name,
            output_dir,
            scorer,
            max_detections=max_detections,
            keypoint_sigmas=keypoint_sigmas,
        ),
        LVISEvaluator: partial(
            _build_lvis,
            dataset_name,
            output_dir=output_dir,
            max_dets_per_image=max(LVIS_LIMIT, max_detections),
        ),
        SemSegEvaluator: partial(
            SemSegEvaluator, dataset_name, output_dir=output_dir, sem_seg_loading_fn=_read_labels
        ),
        COCOPanopticEvaluator: partial(COCOPanopticEvaluator, dataset_name, output_dir),
    }
    kinds: list[Any] = [score.evaluator for score in scores_of(dataset_name)]
    evaluators = [make.get(kind, partial(kind, dataset_name))() for kind in kinds]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)
