"""The annotations that detections are held against: read, and completed where that is plain."""

import contextlib
import io
import logging
import os
from numbers import Real
from tempfile import TemporaryDirectory

from detectron2.utils import comm
from pycocotools.coco import COCO

from gn_det.data import DatasetError, json_of, write_coco_json
from gn_det.data.checks.annotations import is_area
from gn_det.data.checks.fixes import object_area

__all__ = ["completed", "load_truth"]

logger = logging.getLogger(__name__)


def load_truth(dataset_name: str, output_dir: str | None = None) -> COCO:
    """Read the annotations of a dataset.

    One without a json is converted, as by Detectron2's evaluator; each process does so for itself,
    so that none waits, and machines need no folder in common.

    Args:
        dataset_name: registered.
        output_dir: gets ``NAME_coco_format.json``, from the main process, where there was no json.

    Raises:
        DatasetError: the dataset is unknown, missing, or cannot be scored.
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
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(json_file)
    except (AssertionError, LookupError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{json_file} is no dataset in COCO's format ({type(error).__name__}: {error}). "
            "gn-det check-dataset tells what is wrong."
        ) from None
    if "annotations" not in truth.dataset:
        raise DatasetError(f"{json_file} has no annotations, so nothing can be scored against it.")
    return truth


def completed(truth: COCO) -> COCO:
    """Return annotations as pycocotools needs them: the same where they are so, else a copy.

    A missing ``iscrowd`` is 0, a missing ``area`` the mask's, or the box's where there is none.
    Where an id is no number, all are numbered anew. Annotations of images that are not there are
    left out, as pycocotools leaves them.

    Args:
        truth: each annotation of its images with a box or a mask.
    """
    annotations = truth.dataset["annotations"]
    known = [a for a in annotations if a["image_id"] in truth.imgs]
    unnumbered = not all(isinstance(a["id"], Real) for a in known)
    lacking = [a for a in known if a.get("iscrowd") is None or not is_area(a.get("area"))]
    if len(known) == len(annotations) and not unnumbered and not lacking:
        return truth
    if lacking:
        logger.warning(
            f"{len(lacking)} annotations lack area or iscrowd, the first is {lacking[0]['id']}: "
            "the area of their mask or box is taken, and 0."
        )
    made = COCO()
    made.dataset = {
        **truth.dataset,
        "annotations": [
            {**_completed(a, truth.imgs[a["image_id"]]), "id": number if unnumbered else a["id"]}
            for number, a in enumerate(known, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        made.createIndex()
    return made


def _completed(annotation: dict, image: dict) -> dict:
    area = annotation.get("area")
    if not is_area(area):
        area = object_area(annotation, (image.get("width"), image.get("height")))
    return {**annotation, "area": area, "iscrowd": annotation.get("iscrowd") or 0}
