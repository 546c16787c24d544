"""The ground truth of an evaluation: reading it, and filling in what it lacks."""

import contextlib
import io
import logging
import os
from tempfile import TemporaryDirectory

from detectron2.utils import comm
from pycocotools.coco import COCO

from gn_det.data import DatasetError, json_of, read_coco, write_coco_json
from gn_det.data.checks.fix_annotation import object_area
from gn_det.data.checks.records import has_mask, is_area

__all__ = ["fill_missing_fields", "load_truth"]

logger = logging.getLogger(__name__)


def load_truth(dataset_name: str, output_dir: str | None = None) -> COCO:
    """Read the annotations of a dataset.

    A dataset without a JSON file is converted to COCO's format, as by Detectron2's evaluator. Each
    process does this on its own, so that no process waits and machines need no shared folder.

    Args:
        dataset_name: The name of a registered dataset.
        output_dir: The folder in which the main process writes converted annotations,
            ``NAME_coco_format.json``. None writes no file.

    Raises:
        DatasetError: The dataset is unknown, missing, or cannot be scored.
    """
    json_file = json_of(dataset_name)
    if json_file is not None:
        return _read(json_file)
    with TemporaryDirectory() as folder:
        if output_dir and comm.is_main_process():
            folder = output_dir
        path = os.path.join(folder, f"{dataset_name}_coco_format.json")
        write_coco_json(dataset_name, path)
        return _read(path)


def _read(json_file: str) -> COCO:
    truth = read_coco(json_file)
    if "annotations" not in truth.dataset:
        raise DatasetError(f"{json_file} has no annotations, so nothing can be scored against it.")
    return truth


def fill_missing_fields(truth: COCO) -> COCO:
    """Return the ground truth with all fields that pycocotools needs.

    A missing ``iscrowd`` becomes 0. A missing ``area`` becomes the area of the mask, or of the box
    if there is no mask. Where others have keypoints, missing ones become zeros, which COCO's rules
    leave out; a missing ``num_keypoints`` is counted. If an id is not a whole number above 0, or is
    there twice, all annotations are renumbered: 0 means "not found" in pycocotools. Annotations of
    unknown images are removed; pycocotools ignores them too.

    Args:
        truth: The ground truth, in which each annotation of a known image has a box or a mask.

    Returns:
        ``truth`` itself if nothing is missing, otherwise a copy.

    Raises:
        DatasetError: An area is missing, and the image of its polygons has no size.
    """
    annotations = truth.dataset["annotations"]
    known = [a for a in annotations if a["image_id"] in truth.imgs]
    ids = [a["id"] for a in known]
    unnumbered = len({*ids}) < len(ids) or not all(type(i) is int and i > 0 for i in ids)
    lacking = [a for a in known if a.get("iscrowd") is None or not is_area(a.get("area"))]
    number = max((len(a.get("keypoints") or ()) for a in known), default=0)
    pointless = [
        a for a in known if number and (a.get("num_keypoints") is None or not a.get("keypoints"))
    ]
    if len(known) == len(annotations) and not (unnumbered or lacking or pointless):
        return truth
    if lacking:
        logger.warning(
            f"{len(lacking)} annotations lack area or iscrowd (the first has the id "
            f"{lacking[0]['id']}). They get the area of their mask or box, and iscrowd 0."
        )
    filled = COCO()
    filled.dataset = {
        **truth.dataset,
        "annotations": [
            {
                **_fill(a, truth.imgs[a["image_id"]]),
                **_keypoints(a, number),
                "id": place if unnumbered else a["id"],
            }
            for place, a in enumerate(known, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        filled.createIndex()
    return filled


def _fill(annotation: dict, image: dict) -> dict:
    area = annotation.get("area")
    if not is_area(area):
        width, height = image.get("width"), image.get("height")
        is_polygons = has_mask(annotation) and isinstance(annotation["segmentation"], list)
        if is_polygons and (width is None or height is None):
            raise DatasetError(
                f"Annotation {annotation['id']} has no area, and its image {image['id']} has no "
                "width and height, without which the area of its polygons is not known."
            )
        area = object_area(annotation, (width or 0, height or 0))
    return {**annotation, "area": area, "iscrowd": annotation.get("iscrowd") or 0}


def _keypoints(annotation: dict, number: int) -> dict:
    """Return ``keypoints`` and ``num_keypoints``; nothing where the dataset has no keypoints.

    Args:
        annotation: The annotation.
        number: The length of ``keypoints``: three numbers for each.
    """
    if not number:
        return {}
    points = annotation.get("keypoints") or [0] * number
    seen = annotation.get("num_keypoints")
    return {
        "keypoints": points,
        "num_keypoints": sum(v > 0 for v in points[2::3]) if seen is None else seen,
    }
