"""The objects of the photo digits, cut out: classification on what a detector of them will see.

A crop is a square about the middle of a digit's box, with the photograph and parts of other digits
around it. No digit sample is in both splits, as in the dataset itself.
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

from .labelled import InMemory, LabelledSplit, resize

__all__ = ["photo_digit_crops"]

PREFIX = "photo_digits"
# the longer side of the box times this is the side of a crop: at random between them in training,
# their mean in evaluation
CONTEXT = (1.2, 1.5)


def photo_digit_crops(cfg: CfgNode, split: str) -> LabelledSplit:
    """Return a split; training crops vary in place and scale, and are never mirrored.

    Args:
        cfg: ``PRETRAIN.CROP`` is the side to which crops are made, whatever a digit's size.
        split: "train" or "val".

    Raises:
        FileExistsError, ImportError: see :func:`gn_det.data.build_photo_digits`.
    """
    side = cfg.PRETRAIN.CROP
    name = f"{PREFIX}_{split}"
    folder = MetadataCatalog.get(name).image_root  # follows $DETECTRON2_DATASETS
    images, labels = _cut_out(name, folder, round(side * CONTEXT[1] / CONTEXT[0]))
    bgr = cfg.INPUT.FORMAT == "BGR"
    mapper = partial(_map, side=side, augment=split == "train", bgr=bgr)
    return LabelledSplit(InMemory(images, labels), mapper, len(CLASSES))


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
    """Return crops (N, 3, side, side) uint8, RGB, with the most context, and labels (N).

    Args:
        name: of the dataset, which is built where it is missing.
        folder: of its images; another folder is another dataset.
        side: in pixels.
    """
    crops, labels = [], []
    for record in DatasetCatalog.get(name):
        with Image.open(record["file_name"]) as file:
            scene = np.asarray(file.convert("RGB"))
        boxes = [annotation["bbox"] for annotation in record["annotations"]]
        margin = math.ceil(max(max(box[2:]) for box in boxes) * CONTEXT[1] / 2)
        # beyond the scene its edge goes on: mirrored, it would show mirrored digits
        padded = Image.fromarray(np.pad(scene, ((margin,) * 2, (margin,) * 2, (0, 0)), "edge"))
        for left, top, width, height in boxes:
            x, y = margin + left + width / 2, margin + top + height / 2
            half = CONTEXT[1] * max(width, height) / 2
            box = (x - half, y - half, x + half, y + half)
            crop = padded.resize((side, side), Image.Resampling.BILINEAR, box=box)
            crops.append(np.asarray(crop))
        labels += [annotation["category_id"] for annotation in record["annotations"]]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2), torch.tensor(labels)
