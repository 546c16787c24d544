"""The libraries that match detections to ground truth: hotcoco, and pycocotools as the reference.

Both give the same numbers to the last digit; hotcoco is some tens of times faster.
"""

import contextlib
import io
import logging
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from gn_det.config.detection_limit import COCO_LIMIT

__all__ = [
    "ANNOTATION_KEYS",
    "SCORERS",
    "Tables",
    "check_scorer",
    "detection_limits",
    "precision_of",
    "tables_of",
]

logger = logging.getLogger(__name__)

SCORERS = ("fast", "pycocotools")
# the key of an annotation that each IoU type compares
ANNOTATION_KEYS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
_KEYPOINT_LIMITS = [20]  # COCO's for keypoints
_EXACT = 2**53  # hotcoco gets ids as float64


class Tables(NamedTuple):
    """COCO's tables. Values are in [0, 1], or -1 where there is no object to find.

    Attributes:
        precision: A float64 array of shape (10, 101, K, A, M): IoU thresholds, recall thresholds,
            classes ordered by id, area ranges (all, small, medium and large; of keypoints all,
            medium and large), limits.
        recall: A float64 array of shape (10, K, A, M).
        limits: The M numbers of detections of a class on an image that are counted, those with the
            highest scores.
    """

    precision: np.ndarray
    recall: np.ndarray
    limits: list[int]


def detection_limits(iou_type: str, max_detections: int = COCO_LIMIT) -> list[int]:
    """Return the limits of COCO's tables, such as [1, 10, 100]; the last one is that of AP.

    Args:
        iou_type: One of :data:`ANNOTATION_KEYS`. Keypoints have COCO's limit of 20.
        max_detections: The last limit.
    """
    if iou_type == "keypoints":
        return _KEYPOINT_LIMITS
    return [limit for limit in (1, 10) if limit < max_detections] + [max_detections]


def check_scorer(scorer: str) -> None:
    """Raise ValueError if there is no scorer of this name."""
    if scorer not in SCORERS:
        raise ValueError(f"There is no scorer {scorer!r}; choose one of {', '.join(SCORERS)}.")


def precision_of(truth: COCO, detections: list[dict], iou_type: str, scorer: str) -> np.ndarray:
    """Return the precision of :func:`tables_of` with COCO's own limits."""
    return tables_of(truth, detections, iou_type, scorer).precision


def tables_of(
    truth: COCO,
    detections: list[dict],
    iou_type: str,
    scorer: str,
    *,
    max_detections: int = COCO_LIMIT,
    keypoint_sigmas: Sequence[float] = (),
) -> Tables:
    """Match detections to objects.

    Args:
        truth: The ground truth.
        detections: The detections in COCO's result format. They are not changed.
        iou_type: One of :data:`ANNOTATION_KEYS`.
        scorer: One of :data:`SCORERS`. "fast" warns and uses pycocotools if hotcoco is not
            installed or cannot read the input, such as images whose id is a text.
        max_detections: See :func:`detection_limits`.
        keypoint_sigmas: The OKS sigma of each keypoint; () for COCO's 17.

    Raises:
        ValueError: The scorer is unknown.
    """
    check_scorer(scorer)
    limits = detection_limits(iou_type, max_detections)
    sigmas = list(keypoint_sigmas)
    if scorer == "fast":
        try:
            return _by_hotcoco(truth, detections, iou_type, limits, sigmas)
        except ImportError:
            reason = "hotcoco is not installed (pip install hotcoco)"
        except (KeyError, TypeError, ValueError) as error:
            reason = f"hotcoco cannot read this ({error})"
        logger.warning(f"{reason}, so pycocotools is used: the same numbers, but slower.")
    return _by_pycocotools(truth, detections, iou_type, limits, sigmas)


def _by_hotcoco(
    truth: COCO, detections: list[dict], iou_type: str, limits: list[int], sigmas: list[float]
) -> Tables:
    import hotcoco  # not on every platform

    # the progress bar appears only if scoring takes more than a second
    with tqdm(total=5, desc=f"score {iou_type}", unit="step", disable=None, delay=1) as bar:
        dataset, images, categories = _with_exact_ids(truth)
        expected = hotcoco.COCO(dataset)
        bar.update()
        # an array: a list of dicts would take longer than everything else
        table = np.zeros((len(detections), 7))
        table[:, 0] = [images.get(d["image_id"], d["image_id"]) for d in detections]
        table[:, 5] = [d["score"] for d in detections]
        table[:, 6] = [categories.get(d["category_id"], d["category_id"]) for d in detections]
        if iou_type == "keypoints":
            found = expected.load_res(
                [
                    {**detection, "image_id": int(image), "category_id": int(k)}
                    for detection, image, k in zip(
                        _compared(detections, iou_type), *table[:, [0, 6]].T.tolist()
                    )
                ]
            )
        elif iou_type == "segm":
            masks = [detection["segmentation"] for detection in detections]
            bar.update()
            found = expected.load_res(table, segmentation=masks)
            if masks:  # the default is the area of the box
                found.update_anns(ids=np.arange(1, len(masks) + 1), area=hotcoco.mask.area(masks))
        else:
            table[:, 1:5] = np.reshape([detection["bbox"] for detection in detections], (-1, 4))
            bar.update()
            found = expected.load_res(table)
        bar.update()
        evaluation: Any = hotcoco.COCOeval(expected, found, iou_type)
        evaluation.params.max_dets = limits
        if sigmas:
            evaluation.params.kpt_oks_sigmas = sigmas
        evaluation.evaluate()
        bar.update()
        evaluation.accumulate()
        bar.update()
    return Tables(evaluation.eval["precision"], evaluation.eval["recall"], limits)


def _with_exact_ids(truth: COCO) -> tuple[dict, dict, dict]:
    """Return the dataset with ids that float64 holds, and ``{id: new id}`` of what was renumbered.

    Ids that are no numbers stay as they are.
    """
    ids = [*truth.imgs, *truth.cats]
    exact = all(type(i) is int and 0 <= i < _EXACT for i in ids)
    if exact or not all(isinstance(i, Real) for i in ids):
        return truth.dataset, {}, {}
    images = {i: number for number, i in enumerate(sorted(truth.imgs), start=1)}
    categories = {i: number for number, i in enumerate(sorted(truth.cats), start=1)}
    dataset = {
        **truth.dataset,
        "images": [{**image, "id": images[image["id"]]} for image in truth.imgs.values()],
        "categories": [{**kind, "id": categories[kind["id"]]} for kind in truth.cats.values()],
        "annotations": [
            {
                **annotation,
                "image_id": images[annotation["image_id"]],
                "category_id": categories[annotation["category_id"]],
            }
            for annotation in truth.dataset["annotations"]
            if annotation["image_id"] in images and annotation["category_id"] in categories
        ],
    }
    return dataset, images, categories


def _by_pycocotools(
    truth: COCO, detections: list[dict], iou_type: str, limits: list[int], sigmas: list[float]
) -> Tables:
    detections = _compared(detections, iou_type)
    with contextlib.redirect_stdout(io.StringIO()):
        found = truth.loadRes(detections) if detections else _nothing(truth)
        evaluation = _WithProgressBar(truth, found, iou_type)
        evaluation.params.maxDets = limits
        if sigmas:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
    return Tables(evaluation.eval["precision"], evaluation.eval["recall"], limits)


def _compared(detections: list[dict], iou_type: str) -> list[dict]:
    """Return copies, since ``loadRes`` adds keys, of what is compared, and of what has an area.

    As in Detectron2, APm and APl of keypoints go by the area of the boxes, where there are any, and
    APs, APm and APl of masks by the area of the masks.
    """
    keys = ["image_id", "category_id", "score", ANNOTATION_KEYS[iou_type]]
    if iou_type == "keypoints" and all("bbox" in detection for detection in detections):
        keys.append("bbox")
    return [{key: detection[key] for key in keys} for detection in detections]


def _nothing(truth: COCO) -> COCO:
    """Return results without detections, which ``loadRes`` cannot read."""
    found = COCO()
    found.dataset = {
        "images": truth.dataset["images"],
        "categories": truth.dataset["categories"],
        "annotations": [],
    }
    found.createIndex()
    return found


class _WithProgressBar(COCOeval):
    """Shows the progress of matching, which takes most of the time."""

    def evaluate(self) -> None:
        pairs = len(self.params.imgIds) * len(self.params.catIds)
        total = pairs * (1 + len(self.params.areaRng))  # calls of computeIoU and of evaluateImg
        name = f"score {self.params.iouType}"
        with tqdm(total=total, desc=name, disable=None, delay=1, unit_scale=True) as self._bar:
            super().evaluate()

    def computeIoU(self, imgId: int, catId: int) -> np.ndarray | list:
        self._bar.update()
        return super().computeIoU(imgId, catId)

    def evaluateImg(self, imgId: int, catId: int, aRng: list, maxDet: int) -> dict | None:
        self._bar.update()
        return super().evaluateImg(imgId, catId, aRng, maxDet)
