"""The evaluators of a dataset, chosen by the ``evaluator_type`` of its metadata."""

import contextlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
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

__all__ = [
    "EVALUATORS",
    "Score",
    "build_evaluator",
    "check_evaluator",
    "known_scores_of",
    "scores_of",
]

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
        metrics: The outputs of a model, one of which is scored, and the main metric of each task
            that is measured of it.
        package: The package that it imports; "" for none but gn_det's own.
        metadata: The key that the dataset's metadata needs for it; "" for none.
        setup: What it reads of the dataset, for the message where that is not there.
    """

    evaluator: type[DatasetEvaluator]
    metrics: Mapping[str, tuple[str, ...]]
    package: str = ""
    metadata: str = ""
    setup: str = ""


_PROPOSALS: dict[str, tuple[str, ...]] = {"proposals": ("box_proposals/AR@1000",)}
_COCO = Score(COCOEvaluator, {"instances": ("bbox/AP", "segm/AP", "keypoints/AP"), **_PROPOSALS})
_LVIS = Score(
    LVISEvaluator,
    {"instances": ("bbox/AP", "segm/AP"), **_PROPOSALS},
    "lvis",
    setup="json_file in its metadata",
)
_VOC = Score(
    PascalVOCDetectionEvaluator,
    {"instances": ("bbox/AP",)},
    setup="dirname, split, thing_classes and year (2007 or 2012) in its metadata",
)
_SEM_SEG = Score(
    SemSegEvaluator,
    {"sem_seg": ("sem_seg/mIoU",)},
    setup="stuff_classes and ignore_label in its metadata, and sem_seg_file_name of each image",
)
_PANOPTIC = Score(
    COCOPanopticEvaluator,
    {"panoptic_seg": ("panoptic_seg/PQ",)},
    "panopticapi",
    setup="panoptic_json, panoptic_root, thing_dataset_id_to_contiguous_id and "
    "stuff_dataset_id_to_contiguous_id in its metadata",
)
_CITY_INSTANCE = Score(
    CityscapesInstanceEvaluator, {"instances": ("segm/AP",)}, "cityscapesscripts"
)
_CITY_SEM_SEG = Score(CityscapesSemSegEvaluator, {"sem_seg": ("sem_seg/IoU",)}, "cityscapesscripts")

# As in Detectron2's tools/train_net.py, and of cityscapes_panoptic_seg as in its Panoptic-DeepLab.
EVALUATORS: dict[str, tuple[Score, ...]] = {
    "coco": (_COCO,),
    # only the annotations with separate files of semantic segmentation have sem_seg_root
    "coco_panoptic_seg": (_SEM_SEG._replace(metadata="sem_seg_root"), _COCO, _PANOPTIC),
    "sem_seg": (_SEM_SEG,),
    "lvis": (_LVIS,),
    "pascal_voc": (_VOC,),
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
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type") or "coco"
    if kind not in EVALUATORS:
        raise DatasetError(
            f"{dataset_name}: its metadata has the evaluator_type {kind!r}, which is unknown."
            f"{did_you_mean(str(kind), EVALUATORS)} Known are {', '.join(EVALUATORS)}. For an "
            "evaluator of your own, override Trainer.build_evaluator."
        )
    scores = known_scores_of(dataset_name)
    missing = {s.package: None for s in scores if s.package and not _is_installed(s.package)}
    if missing:
        raise DatasetError(
            f"{dataset_name}: its evaluator_type {kind} needs {' and '.join(missing)}. Install it: "
            f"{' && '.join(INSTALL[package] for package in missing)}"
        )
    return scores


def known_scores_of(dataset_name: str) -> list[Score]:
    """Return the evaluators of a dataset, installed or not; none of an unknown type.

    Args:
        dataset_name: The name of a registered dataset.
    """
    metadata = MetadataCatalog.get(dataset_name)
    scores = EVALUATORS.get(metadata.get("evaluator_type") or "coco", ())
    return [s for s in scores if not s.metadata or metadata.get(s.metadata)]


def _read_labels(dataset_name: str, filename: str, dtype: Any = None) -> np.ndarray:
    """Read a picture of labels; Detectron2 would fail at unknown ones, or ignore them."""
    # Detectron2's own function asks for an array without a copy, which NumPy 2 refuses
    with PathManager.open(filename, "rb") as file:
        labels = np.array(Image.open(file), dtype=dtype)
    if labels.ndim != 2:
        raise DatasetError(f"{filename} is a color picture, and not one label for each pixel.")
    metadata = MetadataCatalog.get(dataset_name)
    known, ignored = len(metadata.stuff_classes), metadata.ignore_label
    wrong = ((labels < 0) | (labels >= known)) & (labels != ignored)
    if wrong.any():
        raise DatasetError(
            f"{filename} has the label {labels[wrong][0]}, but {dataset_name} has {known} "
            f"stuff_classes, from 0 to {known - 1}, and the ignore_label {ignored}."
        )
    return labels


def _build_sem_seg(dataset_name: str, output_dir: str | None) -> SemSegEvaluator:
    read = partial(_read_labels, dataset_name)
    evaluator = SemSegEvaluator(dataset_name, output_dir=output_dir, sem_seg_loading_fn=read)
    files = list(evaluator.input_file_to_gt_file.values())
    for file in files:
        if not PathManager.isfile(file):
            raise DatasetError(f"{dataset_name}: its sem_seg_file_name {file} does not exist.")
    for file in files[:1]:  # the others are read with their images
        read(file, int)
    return evaluator


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
            is unknown, missing, cannot be read, or lacks what the evaluator reads.
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
        SemSegEvaluator: partial(_build_sem_seg, dataset_name, output_dir),
        COCOPanopticEvaluator: partial(COCOPanopticEvaluator, dataset_name, output_dir),
    }
    evaluators = []
    for score in scores_of(dataset_name):
        kind: Any = score.evaluator
        try:
            evaluators.append(make.get(kind, partial(kind, dataset_name))())
        except (AssertionError, AttributeError, KeyError) as error:
            if not score.setup:
                raise
            raise DatasetError(
                f"{dataset_name}: {kind.__name__} needs {score.setup} ({error})."
            ) from error
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def check_evaluator(dataset_name: str) -> None:
    """Check before a training that the evaluator of a dataset can be built.

    Args:
        dataset_name: The name of a registered dataset.

    Raises:
        DatasetError: See :func:`build_evaluator`. What :class:`COCOEvaluator` reads is checked with
            the datasets.
    """
    if any(score.evaluator is not COCOEvaluator for score in scores_of(dataset_name)):
        build_evaluator(dataset_name, None)
