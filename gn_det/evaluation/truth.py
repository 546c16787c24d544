"""The ground truth of an evaluation: reading it, and filling in what it lacks."""

import contextlib
import io
import logging
import os
from numbers import Real
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
    if there is no mask. If an id is not a number, all annotations are renumbered. Annotations of
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
    unnumbered = not all(isinstance(a["id"], Real) for a in known)
    lacking = [a for a in known if a.get("iscrowd") is None or not is_area(a.get("area"))]
    if len(known) == len(annotations) and not unnumbered and not lacking:
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
            {**_fill(a, truth.imgs[a["image_id"]]), "id": number if unnumbered else a["id"]}
            for number, a in enumerate(known, start=1)
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
