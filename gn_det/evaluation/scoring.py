"""COCO's AP of a list of detections, by pycocotools."""

import contextlib
import copy
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

__all__ = ["METRICS", "score"]

# the first six numbers of COCOeval.summarize
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def score(truth: COCO, detections: list[dict], iou_type: str) -> dict[str, float]:
    """Return AP in percent, over all classes and for each class.

    Args:
        truth: the annotations.
        detections: in COCO's result format: ``image_id``, ``category_id`` (the json's own ids),
            ``score``, and ``bbox`` (XYWH, pixels) or ``segmentation`` (RLE).
        iou_type: "bbox" or "segm".

    Returns:
        :data:`METRICS` and ``"AP-NAME"`` for each class; NaN where there is no object to find.
    """
    detections = copy.deepcopy(detections)  # loadRes adds keys to them
    if iou_type == "segm":
        for detection in detections:
            # with a box, COCO would take the box's area for the mask's in APs, APm and APl
            detection.pop("bbox", None)
    with contextlib.redirect_stdout(io.StringIO()):
        found = truth.loadRes(detections) if detections else _nothing(truth)
        coco_eval = COCOeval(truth, found, iou_type)
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    results = {m: _percent(v) for m, v in zip(METRICS, coco_eval.stats)}
    # precision: thresholds x recalls x classes x areas (0: all) x detections an image (-1: most)
    precision = coco_eval.eval["precision"][:, :, :, 0, -1]
    for k, category in enumerate(truth.loadCats(coco_eval.params.catIds)):
        of_class = precision[:, :, k]
        of_class = of_class[of_class > -1]
        results[f"AP-{category['name']}"] = _percent(of_class.mean() if of_class.size else -1)
    return results


def _nothing(truth: COCO) -> COCO:
    """Return results without a detection, which ``loadRes`` cannot read."""
    found = COCO()
    found.dataset = {
        "images": truth.dataset["images"],
        "categories": truth.dataset["categories"],
        "annotations": [],
    }
    found.createIndex()
    return found


def _percent(value: float) -> float:
    return float(value * 100) if value > -1 else float(np.nan)
