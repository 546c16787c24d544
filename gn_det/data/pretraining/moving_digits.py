"""Moving digits: clips of handwritten digits. The class of a clip is the direction of the motion.

A clip has 8 frames of 32x32 pixels and shows one of scikit-learn's real digits. The digit moves in
a straight line at 1 or 2 pixels a frame; what leaves the frame on one side enters on the other. The
nine classes are the eight directions in steps of 45 degrees, and no motion. The class does not
depend on the digit, its place and its speed, and no single frame shows it: a network has to use
several frames in their order.
"""

from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from gn_det.data.embedded.photo_digits import SPLITS, split_samples

from .labelled_data import InMemory, LabelledSplit, resize

__all__ = ["moving_digits"]

COUNTS = {"train": 4000, "val": 1000}
FRAMES, SIDE, DIGIT = 8, 32, 16  # the frames of a clip; the sides of a frame and a digit in pixels
# (down, right) in pixels per frame at speed 1; the position is the class
DIRECTIONS = ((0, 0), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
SPEEDS = (1, 2)
SEED = 0


def moving_digits(cfg: CfgNode, split: str) -> LabelledSplit:
    """Return a split of clips (3, 8, CROP, CROP). They are always the same, without augmentation.

    No sample of a digit is in both splits.

    Args:
        cfg: A config with gn_det's keys. Frames are resized to ``PRETRAIN.CROP``.
        split: The name of the split: "train" (4,000 clips) or "val" (1,000).

    Raises:
        ImportError: scikit-learn is missing.
    """
    clips, labels = _make(split)
    mapper = partial(_map, side=cfg.PRETRAIN.CROP)
    return LabelledSplit(InMemory(clips, labels), mapper, len(DIRECTIONS))


def _map(record: dict[str, Any], side: int) -> dict[str, Any]:
    clip = resize(record["image"], side)
    return {"image": clip.expand(3, *clip.shape), "label": record["label"]}


@lru_cache(maxsize=2)  # train and val, which a run opens several times
def _make(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clips (N, T, H, W) uint8, and labels (N,)."""
    from sklearn.datasets import load_digits  # slow to import

    digits = load_digits()
    samples = split_samples(digits.target, SEED)[split]
    scans = torch.from_numpy(digits.images / 16 * 255).round().byte()  # ink is 0 to 16
    pictures = resize(scans, DIGIT).numpy()
    rng = np.random.default_rng([SEED, SPLITS.index(split)])
    count = COUNTS[split]
    clips = np.empty((count, FRAMES, SIDE, SIDE), np.uint8)
    labels = np.arange(count) % len(DIRECTIONS)
    for clip, label in zip(clips, labels):
        velocity = np.array(DIRECTIONS[label]) * rng.choice(SPEEDS)
        path = rng.integers(SIDE, size=2) + np.arange(FRAMES)[:, None] * velocity
        clip[:] = _frames(pictures[rng.choice(samples)], path)
    return torch.from_numpy(clips), torch.from_numpy(labels)


def _frames(picture: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Return frames (T, SIDE, SIDE): the picture with its upper left corner on the path (T, 2)."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    canvas[: len(picture), : len(picture)] = picture
    four = np.tile(canvas, (2, 2))
    corners = (-path % SIDE).tolist()
    return np.stack([four[y : y + SIDE, x : x + SIDE] for y, x in corners])
