"""COCO's AP of a list of detections."""

import logging
import re
import time
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO

from gn_det.data import DatasetError

from .scorers import PLACE, precision_of
from .truth import completed

__all__ = ["METRICS", "score"]

logger = logging.getLogger(__name__)

# name: (IoU threshold's index or all of them, area's index), as COCOeval.summarize has them
_METRICS = {
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
        truth: the annotations; what they lack and what is plain is filled in, see
            :func:`gn_det.evaluation.truth.completed`.
        detections: in COCO's result format: ``image_id``, ``category_id`` (the json's own ids),
            ``score``, and ``bbox`` (XYWH, pixels) or ``segmentation`` (RLE).
        iou_type: "bbox" or "segm".
        scorer: "fast" (hotcoco) or "pycocotools", the reference; their numbers are equal.

    Returns:
        :data:`METRICS` and ``"AP-NAME"`` for each class; NaN where there is no object to find.

    Raises:
        DatasetError: a detection is of an image that ``truth`` does not have, or ``truth`` lacks
            what has to be found.
        KeyError: a detection lacks a key.
        ValueError: there is no such scorer.
    """
    start = time.perf_counter()
    _check(truth, detections, iou_type)
    truth = completed(truth)
    if 0 in truth.anns:
        logger.warning(
            "An annotation has the id 0, which pycocotools takes for 'not found': there that "
            "object always counts as missed. Number the annotations from 1."
        )
    precision = precision_of(truth, detections, iou_type, scorer)
    results = _summary(precision, [c["name"] for c in truth.loadCats(sorted(truth.getCatIds()))])
    logger.info(
        f"{iou_type}: {len(detections)} detections on {len(truth.imgs)} images scored in "
        f"{time.perf_counter() - start:.1f} s{_memory()}"
    )
    return results


def _check(truth: COCO, detections: list[dict], iou_type: str) -> None:
    strangers = {d["image_id"] for d in detections} - truth.imgs.keys()
    if strangers:
        raise DatasetError(
            f"Detections are of images that the annotations do not have: {list(strangers)[:3]}. "
            "Are these the results of another dataset?"
        )
    place = PLACE[iou_type]
    for annotation in truth.anns.values():
        if annotation["image_id"] in truth.imgs and annotation.get(place) in (None, [], {}):
            raise DatasetError(
                f"Annotation {annotation['id']} of image {annotation['image_id']} has no {place}"
                f", without which COCO's AP of {iou_type} is not defined."
            )


def _summary(precision: np.ndarray, names: list[str]) -> dict[str, float]:
    precision = precision[..., -1]  # with the most detections an image, 100
    results = {m: _percent(precision[t, ..., a]) for m, (t, a) in _METRICS.items()}
    for k, name in enumerate(names):
        results[f"AP-{name}"] = _percent(precision[:, :, k, 0])
    return results


def _percent(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(known.mean() * 100) if known.size else float("nan")


def _memory() -> str:
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux
        return ""
    # resource's ru_maxrss would not do: a new process starts with that of its parent
    highest = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    return f"; the process held {int(highest[1]) / 2**10:.0f} MiB at most so far"
