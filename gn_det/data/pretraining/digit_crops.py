"""Crops of the objects in photo digits: classification of what a detector of them sees.

A crop is a square around the centre of a digit's box, with the photograph and parts of other digits
in it. No digit sample is in both splits, as in the dataset itself.
"""

import math
import random
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from gn_det.data.embedded.photo_digits import CLASSES

from .labelled_data import InMemory, LabelledSplit, resize

__all__ = ["photo_digit_crops"]

PREFIX = "photo_digits"
# The side of a crop is the longer side of the box times a number: a random one between these two in
# training, their mean in evaluation.
CONTEXT = (1.2, 1.5)


def photo_digit_crops(cfg: CfgNode, split: str) -> LabelledSplit:
    """Return a split. Training crops vary in place and scale, and are never mirrored.

    Args:
        cfg: A config with gn_det's keys. All crops are resized to ``PRETRAIN.CROP``.
        split: The name of the split: "train" or "val".

    Raises:
        FileExistsError, ImportError: Photo digits cannot be built, see
            :func:`gn_det.data.build_photo_digits`.
    """
    side = cfg.PRETRAIN.CROP
    name = f"{PREFIX}_{split}"
    folder = MetadataCatalog.get(name).image_root  # depends on $DETECTRON2_DATASETS
    images, labels = _cut_out(name, folder, round(side * CONTEXT[1] / CONTEXT[0]))
    bgr = cfg.INPUT.FORMAT == "BGR"
    mapper = partial(_map, side=side, augment=split == "train", bgr=bgr)
    return LabelledSplit(InMemory(images, labels), mapper, len(CLASSES), CLASSES)


def _map(record: dict[str, Any], side: int, augment: bool, bgr: bool) -> dict[str, Any]:
    image, whole = record["image"], record["image"].shape[-1]
    window = random.randint(side, whole) if augment else (side + whole) // 2
    top, left = (
        random.randint(0, whole - window) if augment else (whole - window) // 2 for _ in range(2)
    )
    image = resize(image[:, top : top + window, left : left + window], side)
    return {"image": image.flip(0) if bgr else image, "label": record["label"]}


@lru_cache(maxsize=2)  # train and val, which a run opens several times
def _cut_out(name: str, folder: str, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return crops (N, 3, side, side) uint8 in RGB, with the most context, and labels (N,).

    Args:
        name: The name of the dataset, which is built where it is missing.
        folder: The folder of its images. The cache needs it: another folder is another dataset.
        side: The height and width of the crops in pixels.
    """
    crops, labels = [], []
    for record in DatasetCatalog.get(name):
        with Image.open(record["file_name"]) as file:
            scene = np.asarray(file.convert("RGB"))
        boxes = [annotation["bbox"] for annotation in record["annotations"]]
        margin = math.ceil(max(max(box[2:]) for box in boxes) * CONTEXT[1] / 2)
        # outside the scene, its edge is repeated; a mirrored scene would show mirrored digits
        padded = Image.fromarray(np.pad(scene, ((margin,) * 2, (margin,) * 2, (0, 0)), "edge"))
        for left, top, width, height in boxes:
            x, y = margin + left + width / 2, margin + top + height / 2
            half = CONTEXT[1] * max(width, height) / 2
            box = (x - half, y - half, x + half, y + half)
            crop = padded.resize((side, side), Image.Resampling.BILINEAR, box=box)
            crops.append(np.asarray(crop))
        labels += [annotation["category_id"] for annotation in record["annotations"]]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2), torch.tensor(labels)
