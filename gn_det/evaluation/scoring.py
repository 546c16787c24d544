"""COCO's average precision of a list of detections."""

import logging
import time
from collections import Counter

import numpy as np
from pycocotools.coco import COCO

from gn_det.data import DatasetError
from gn_det.utils import resident_bytes

from .scorers import ANNOTATION_KEYS, precision_of
from .truth import fill_missing_fields

__all__ = ["METRICS", "score"]

logger = logging.getLogger(__name__)

# name: (index of the IoU threshold or all of them, index of the area range), see COCOeval.summarize
_METRICS: dict[str, tuple[int | slice, int]] = {
    "AP": (slice(None), 0),
    "AP50": (0, 0),
    "AP75": (5, 0),
    "APs": (slice(None), 1),
    "APm": (slice(None), 2),
    "APl": (slice(None), 3),
}
METRICS = tuple(_METRICS)


def score(
    truth: COCO, detections: list[dict], iou_type: str, scorer: str = "fast"
) -> dict[str, float]:
    """Return AP in percent, over all classes and for each class.

    Args:
        truth: The ground truth. Missing fields are filled in, see
            :func:`gn_det.evaluation.truth.fill_missing_fields`.
        detections: The detections in COCO's result format: ``image_id``, ``category_id`` (an id of
            the ground truth), ``score``, and ``bbox`` (XYWH, pixels) or ``segmentation`` (RLE).
        iou_type: "bbox" or "segm".
        scorer: "fast" (hotcoco) or "pycocotools" (the reference). Their numbers are equal.

    Returns:
        :data:`METRICS`, and ``"AP-NAME"`` for each class, or ``"AP-NAME (ID)"`` where several have
        the name; NaN where there is no object to find.

    Raises:
        DatasetError: A detection belongs to an image that the ground truth does not have, or an
            annotation has no box or mask to compare with.
        KeyError: A detection lacks a key.
        ValueError: The scorer is unknown.
    """
    start = time.perf_counter()
    _check(truth, detections, iou_type)
    truth = fill_missing_fields(truth)
    if 0 in truth.anns:
        logger.warning(
            "An annotation has the id 0, which means 'not found' in pycocotools: that object "
            "always counts as missed. Number the annotations from 1."
        )
    precision = precision_of(truth, detections, iou_type, scorer)
    results = _summary(precision, _class_labels(truth))
    peak = resident_bytes("VmHWM")
    logger.info(
        f"{iou_type}: {len(detections)} detections on {len(truth.imgs)} images scored in "
        f"{time.perf_counter() - start:.1f} s"
        + (f"; peak memory of the process: {peak / 2**20:.0f} MiB" if peak else "")
    )
    return results


def _check(truth: COCO, detections: list[dict], iou_type: str) -> None:
    unknown = {d["image_id"] for d in detections} - truth.imgs.keys()
    if unknown:
        raise DatasetError(
            f"Detections are of images that the annotations do not have: {list(unknown)[:3]}. "
            "Are these the results of another dataset?"
        )
    key = ANNOTATION_KEYS[iou_type]
    for annotation in truth.anns.values():
        if annotation["image_id"] in truth.imgs and annotation.get(key) in (None, [], {}):
            raise DatasetError(
                f"Annotation {annotation['id']} of image {annotation['image_id']} has no {key}"
                f", without which COCO's AP of {iou_type} is not defined."
            )


def _summary(precision: np.ndarray, names: list[str]) -> dict[str, float]:
    precision = precision[..., -1]  # at most 100 detections per image
    results = {m: _percent(precision[t, ..., a]) for m, (t, a) in _METRICS.items()}
    for k, name in enumerate(names):
        results[f"AP-{name}"] = _percent(precision[:, :, k, 0])
    return results


def _class_labels(truth: COCO) -> list[str]:
    """Return the names of the classes by their ids; of several with one name, with the id."""
    classes = truth.loadCats(sorted(truth.getCatIds()))
    counts = Counter(c["name"] for c in classes)
    return [c["name"] if counts[c["name"]] == 1 else f"{c['name']} ({c['id']})" for c in classes]


def _percent(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(known.mean() * 100) if known.size else float("nan")
