"""COCO's average precision and recall of a list of detections."""

import logging
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import Params

from gn_det.config.detection_limit import COCO_LIMIT
from gn_det.data import DatasetError
from gn_det.utils import resident_bytes

from .scorers import ANNOTATION_KEYS, Tables, tables_of
from .truth import fill_missing_fields

__all__ = ["METRICS", "score"]

logger = logging.getLogger(__name__)

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
COCO_SIGMAS = tuple(Params("keypoints").kpt_oks_sigmas)
_AREAS = {"bbox": "sml", "segm": "sml", "keypoints": "ml"}  # the area ranges after "all"


def score(
    truth: COCO,
    detections: list[dict],
    iou_type: str,
    scorer: str = "fast",
    *,
    max_detections: int = COCO_LIMIT,
    keypoint_sigmas: Sequence[float] = (),
) -> dict[str, float]:
    """Return AP and AR in percent, over all classes, and AP for each class.

    Args:
        truth: The ground truth. Missing fields are filled in, see
            :func:`gn_det.evaluation.truth.fill_missing_fields`.
        detections: The detections in COCO's result format: ``image_id``, ``category_id`` (an id of
            the ground truth), ``score``, and ``bbox`` (XYWH, pixels), ``segmentation`` (RLE) or
            ``keypoints``.
        iou_type: "bbox", "segm" or "keypoints".
        scorer: "fast" (hotcoco) or "pycocotools" (the reference). Their numbers are equal.
        max_detections: The number of detections of a class on an image that count. COCO's is 100;
            keypoints always have COCO's 20.
        keypoint_sigmas: The OKS sigma of each keypoint; () for COCO's 17.

    Returns:
        :data:`METRICS` (keypoints have no APs); the average recall AR@1, AR@10 and AR@100, and of
        small, medium and large objects ARs@100, ARm@100 and ARl@100, where 100 stands for
        ``max_detections``; and ``"AP-NAME"`` for each class, or ``"AP-NAME (ID)"`` where several
        have the name. NaN where there is no object to find.

    Raises:
        DatasetError: A detection belongs to an image that the ground truth does not have, or an
            annotation has no box or mask to compare with.
        KeyError: A detection lacks a key.
        ValueError: The scorer is unknown.
    """
    start = time.perf_counter()
    _check(truth, detections, iou_type)
    truth = fill_missing_fields(truth)
    if iou_type == "keypoints":
        _check_sigmas(truth, detections, keypoint_sigmas)
    tables = tables_of(
        truth,
        detections,
        iou_type,
        scorer,
        max_detections=max_detections,
        keypoint_sigmas=keypoint_sigmas,
    )
    results = _summary(tables, iou_type)
    results |= _by_class(tables, _class_labels(truth))
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
    known = [a for a in truth.anns.values() if a["image_id"] in truth.imgs]
    without = [a for a in known if a.get(key) in (None, [], {})]
    # an object may have no keypoints: COCO's rules leave it out
    if without and (iou_type != "keypoints" or len(without) == len(known)):
        raise DatasetError(
            f"Annotation {without[0]['id']} of image {without[0]['image_id']} has no {key}, "
            f"without which COCO's AP of {iou_type} is not defined."
        )
    for annotation in known if iou_type == "segm" else ():
        image = truth.imgs[annotation["image_id"]]
        if not (image.get("height") and image.get("width")):
            raise DatasetError(
                f"Image {image['id']} has no height and width in the annotations, without which "
                "COCO's AP of segm is not defined."
            )


def _check_sigmas(truth: COCO, detections: list[dict], sigmas: Sequence[float]) -> None:
    """Refuse keypoints whose number is not that of the sigmas: pycocotools would fail or skip."""
    expected = len(sigmas) or len(COCO_SIGMAS)
    for what, annotations in (("An object", truth.anns.values()), ("A detection", detections)):
        for annotation in annotations:
            if (count := len(annotation["keypoints"]) // 3) != expected:
                raise DatasetError(
                    f"{what} in image {annotation['image_id']} has {count} keypoints, and there "
                    f"are {expected} OKS sigmas. TEST.KEYPOINT_OKS_SIGMAS takes one number "
                    "for each keypoint; [] is COCO's 17."
                )


def _summary(tables: Tables, iou_type: str) -> dict[str, float]:
    """Return what COCOeval.summarize prints, by the names of Detectron2."""
    precision, recall, limits = tables
    most = limits[-1]
    results = {
        "AP": _percent(precision[..., 0, -1]),
        "AP50": _percent(precision[0, ..., 0, -1]),
        "AP75": _percent(precision[5, ..., 0, -1]),
    }
    areas = list(enumerate(_AREAS[iou_type], start=1))
    results |= {f"AP{size}": _percent(precision[..., area, -1]) for area, size in areas}
    results |= {f"AR@{n}": _percent(recall[..., 0, place]) for place, n in enumerate(limits)}
    results |= {f"AR{size}@{most}": _percent(recall[..., area, -1]) for area, size in areas}
    return results


def _by_class(tables: Tables, names: list[str]) -> dict[str, float]:
    of_classes = tables.precision[..., 0, -1]
    return {f"AP-{name}": _percent(of_classes[:, :, k]) for k, name in enumerate(names)}


def _class_labels(truth: COCO) -> list[str]:
    """Return the names of the classes by their ids; of several with one name, with the id."""
    classes = truth.loadCats(sorted(truth.getCatIds()))
    counts = Counter(c["name"] for c in classes)
    return [c["name"] if counts[c["name"]] == 1 else f"{c['name']} ({c['id']})" for c in classes]


def _percent(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean() * 100) if known.size else float("nan")
