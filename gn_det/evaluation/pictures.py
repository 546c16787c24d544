"""Pictures of ground truth and predictions."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.visualizer import Visualizer
from pycocotools import mask as mask_util

from gn_det.data import DatasetError, read_image

__all__ = ["draw_predictions"]

SCALE = 1.5  # enlarges images, so that labels can be read
GAP = 6  # pixels of white between images


def draw_predictions(
    dataset_name: str,
    results_file: str | Path,
    output: str | Path,
    *,
    num_images: int = 6,
    min_score: float = 0.5,
    window: Sequence[float | str] = (),
) -> None:
    """Draw images of a dataset, two in a row, each with ground truth left and predictions right.

    Args:
        dataset_name: The name of a registered dataset in COCO's format.
        results_file: The path of the detections, ``coco_instances_results.json``.
        output: The path of the picture. Its folder exists.
        num_images: The number of images, from the beginning of the dataset.
        min_score: The lowest score, in [0, 1], of a detection that is drawn.
        window: The value of ``INPUT.WINDOW``, for images with more than 8 bits.

    Raises:
        DatasetError: An image has more than 8 bits, and there is no window.
        OSError: An image cannot be read, or the picture cannot be written.
    """
    records = DatasetCatalog.get(dataset_name)[:num_images]
    metadata = MetadataCatalog.get(dataset_name)
    class_of = metadata.thing_dataset_id_to_contiguous_id
    detections: dict[int, list[dict]] = {}
    for detection in json.loads(Path(results_file).read_text()):
        if detection["score"] >= min_score:
            detections.setdefault(detection["image_id"], []).append(detection)
    pairs = []
    for record in records:
        image = _read_rgb(record["file_name"], window)
        truth = Visualizer(image, metadata, scale=SCALE).draw_dataset_dict(record)
        found = detections.get(record["image_id"], [])
        predicted = Visualizer(image, metadata, scale=SCALE).overlay_instances(
            masks=[mask_util.decode(d["segmentation"]) for d in found if "segmentation" in d]
            or None,
            boxes=np.array([_xyxy(d["bbox"]) for d in found]) if found else None,
            labels=[
                f"{metadata.thing_classes[class_of[d['category_id']]]} {d['score']:.0%}"
                for d in found
            ],
        )
        pairs.append(_beside(truth.get_image(), predicted.get_image()))
    rows = [_beside(*pairs[i : i + 2]) for i in range(0, len(pairs), 2)]
    width = max(row.shape[1] for row in rows)
    rows = [_pad(row, width) for row in rows]
    picture = np.concatenate(rows)
    if not cv2.imwrite(str(output), np.ascontiguousarray(picture[:, :, ::-1])):
        raise OSError(f"{output} cannot be written.")


def _read_rgb(path: str, window: Sequence[float | str]) -> np.ndarray:
    try:
        return read_image(path, "RGB", window)
    except DatasetError:
        raise
    except Exception as error:  # noqa: BLE001 Pillow's readers raise many kinds of errors
        raise OSError(f"{path} is missing, or is not an image.") from error


def _xyxy(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x, y, x + w, y + h]


def _beside(*images: np.ndarray) -> np.ndarray:
    height = max(image.shape[0] for image in images)
    parts = []
    for image in images:
        part = np.full((height + GAP, image.shape[1] + GAP, 3), 255, np.uint8)
        part[: image.shape[0], : image.shape[1]] = image
        parts.append(part)
    return np.concatenate(parts, axis=1)


def _pad(image: np.ndarray, width: int) -> np.ndarray:
    padding = width - image.shape[1]
    return np.pad(image, ((0, 0), (0, padding), (0, 0)), constant_values=255)
