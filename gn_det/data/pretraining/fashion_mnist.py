"""Fashion-MNIST (Xiao et al. 2017): 70,000 grey images of 28x28 pixels, of ten kinds of clothes.

Its four idx files are read from a folder of the user's, or from that of Debian's package.
"""

import gzip
import math
import os
import random
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode

from gn_det.data.errors import DatasetError

from .labelled_data import InMemory, LabelledSplit, resize, root_places

__all__ = ["fashion_mnist", "read_idx"]

DEBIAN = "/usr/share/datasets/fashion-mnist"
# (images, labels), each with or without .gz
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "val": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
NUM_CLASSES = 10
SHIFT = 2  # the most pixels by which a training image is shifted
FLIPPED = {"horizontal": -1, "vertical": -2}  # INPUT.RANDOM_FLIP -> dimension


def fashion_mnist(cfg: CfgNode, split: str) -> LabelledSplit:
    """Return a split. Training images are flipped at random and shifted by up to two pixels.

    Args:
        cfg: A config with gn_det's keys. The files are searched in ``PRETRAIN.ROOT``, then in
            Debian's folder. Images are resized to ``PRETRAIN.CROP``. ``INPUT.RANDOM_FLIP`` means
            the same as in detection.
        split: The name of the split: "train" or "val".

    Raises:
        DatasetError: The files are missing or wrong.
    """
    images, labels = (read_idx(path) for path in _find(cfg.PRETRAIN.ROOT, split))
    if images.shape != (len(labels), 28, 28) or labels.shape[1:]:
        raise DatasetError(
            f"Fashion-MNIST's {split}: images of shape {images.shape} and labels of shape "
            f"{labels.shape} do not belong together."
        )
    if labels.size and labels.max() >= NUM_CLASSES:
        raise DatasetError(f"Fashion-MNIST's {split}: there is a label {labels.max()}, above 9.")
    padded = F.pad(torch.from_numpy(images), (SHIFT,) * 4)
    flip = FLIPPED.get(cfg.INPUT.RANDOM_FLIP)
    mapper = partial(_map, side=cfg.PRETRAIN.CROP, augment=split == "train", flip=flip)
    return LabelledSplit(InMemory(padded, torch.from_numpy(labels)), mapper, NUM_CLASSES)


def _map(record: dict[str, Any], side: int, augment: bool, flip: int | None) -> dict[str, Any]:
    top, left = (random.randint(0, 2 * SHIFT) if augment else SHIFT for _ in range(2))
    image = record["image"][top : top + 28, left : left + 28]
    if augment and flip and random.random() < 0.5:
        image = image.flip(flip)
    return {"image": resize(image, side).expand(3, side, side), "label": record["label"]}


def _find(root: str, split: str) -> list[Path]:
    places = [*root_places(root), DEBIAN]
    for place in places:
        found = [_with_or_without_gz(Path(place, name)) for name in FILES[split]]
        existing = [path for path in found if path is not None]
        if len(existing) == len(found):
            return existing
    names = [f"{name}.gz" for pair in FILES.values() for name in pair]
    raise DatasetError(
        f"PRETRAIN.DATASET fashion_mnist: {' and '.join(FILES[split])} are not in "
        f"{', '.join(places[:-1])} or {DEBIAN}. On Debian or Ubuntu: apt install "
        f"dataset-fashion-mnist. On other systems: put {', '.join(names)} into a folder, and set "
        "PRETRAIN.ROOT to it."
    )


def _with_or_without_gz(path: Path) -> Path | None:
    return next((p for p in (path.with_name(f"{path.name}.gz"), path) if p.is_file()), None)


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """Return the array of an idx file of bytes, gzipped or not.

    Args:
        path: The path of the file.

    Returns:
        The array, uint8, of the shape in the file.

    Raises:
        DatasetError: The file cannot be read, has another format, or is too short or too long.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read: {error}. Get it again.") from error
    # two zeros, the type (8: bytes), the number of dimensions, and each of them in four bytes
    dims = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    start = 4 + 4 * dims
    if not dims or len(data) < start:
        raise DatasetError(f"{path} is not an idx file of bytes: it begins with {data[:4]!r}.")
    shape = tuple(np.frombuffer(data, ">u4", dims, 4).tolist())
    if len(data) != start + math.prod(shape):
        raise DatasetError(
            f"{path} should have {math.prod(shape):,} bytes of data for its shape {shape}, but has "
            f"{len(data) - start:,}. Get it again."
        )
    return np.frombuffer(bytearray(data), np.uint8, offset=start).reshape(shape)
