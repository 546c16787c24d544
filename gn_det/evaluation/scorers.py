"""The libraries that match detections to ground truth: hotcoco, and pycocotools as the reference.

Both give the same numbers to the last digit; hotcoco is some tens of times faster.
"""

import contextlib
import io
import logging
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

__all__ = ["ANNOTATION_KEYS", "SCORERS", "check_scorer", "precision_of"]

logger = logging.getLogger(__name__)

SCORERS = ("fast", "pycocotools")
# the key of an annotation that each IoU type compares
ANNOTATION_KEYS = {"bbox": "bbox", "segm": "segmentation"}


def check_scorer(scorer: str) -> None:
    """Raise ValueError if there is no scorer of this name."""
    if scorer not in SCORERS:
        raise ValueError(f"There is no scorer {scorer!r}; choose one of {', '.join(SCORERS)}.")


def precision_of(truth: COCO, detections: list[dict], iou_type: str, scorer: str) -> np.ndarray:
    """Return COCO's table of precisions.

    Args:
        truth: The ground truth.
        detections: The detections in COCO's result format. They are not changed.
        iou_type: "bbox" or "segm".
        scorer: One of :data:`SCORERS`. "fast" warns and uses pycocotools if hotcoco is not
            installed or cannot read the input, such as images whose id is a text.

    Returns:
        A float64 array of shape (10, 101, K, 4, 3): IoU thresholds, recall thresholds, classes
        ordered by id, area ranges, numbers of detections per image. Values are in [0, 1], or -1
        where there is no object to find.

    Raises:
        ValueError: The scorer is unknown.
    """
    check_scorer(scorer)
    if scorer == "fast":
        try:
            return _by_hotcoco(truth, detections, iou_type)
        except ImportError:
            reason = "hotcoco is not installed (pip install hotcoco)"
        except (KeyError, TypeError, ValueError) as error:
            reason = f"hotcoco cannot read this ({error})"
        logger.warning(f"{reason}, so pycocotools is used: the same numbers, but slower.")
    return _by_pycocotools(truth, detections, iou_type)


def _by_hotcoco(truth: COCO, detections: list[dict], iou_type: str) -> np.ndarray:
    import hotcoco  # not on every platform

    # the progress bar appears only if scoring takes more than a second
    with tqdm(total=5, desc=f"score {iou_type}", unit="step", disable=None, delay=1) as bar:
        expected = hotcoco.COCO(truth.dataset)
        bar.update()
        # an array: a list of dicts would take longer than everything else
        table = np.zeros((len(detections), 7))
        table[:, 0] = [detection["image_id"] for detection in detections]
        table[:, 5] = [detection["score"] for detection in detections]
        table[:, 6] = [detection["category_id"] for detection in detections]
        masks = None
        if iou_type == "segm":
            masks = [detection["segmentation"] for detection in detections]
        else:
            table[:, 1:5] = np.reshape([detection["bbox"] for detection in detections], (-1, 4))
        bar.update()
        found = expected.load_res(table, segmentation=masks)
        if masks:  # the default is the area of the box
            found.update_anns(ids=np.arange(1, len(masks) + 1), area=hotcoco.mask.area(masks))
        bar.update()
        evaluation: Any = hotcoco.COCOeval(expected, found, iou_type)
        evaluation.evaluate()
        bar.update()
        evaluation.accumulate()
        bar.update()
    return evaluation.eval["precision"]


def _by_pycocotools(truth: COCO, detections: list[dict], iou_type: str) -> np.ndarray:
    # copies, because loadRes and evaluate add keys. Without the box for masks, because COCO would
    # use the area of the box for APs, APm and APl.
    keys = ("image_id", "category_id", "score", ANNOTATION_KEYS[iou_type])
    detections = [{key: detection[key] for key in keys} for detection in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        found = truth.loadRes(detections) if detections else _nothing(truth)
        evaluation = _WithProgressBar(truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"]


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
