"""Labelled images and clips for pre-training: what each source returns, and what sources share."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from gn_det.data.worker_watch import Records

__all__ = ["InMemory", "LabelledSplit", "resize", "root_places"]


@dataclass(frozen=True)
class LabelledSplit:
    """One split, train or val, of a source.

    Args:
        records: The records. An error names the ``file_name`` of a record that is a dict.
        mapper: The function from a record to ``{"image": tensor, "label": int}``. An image is
            (3, CROP, CROP) and a clip (3, T, CROP, CROP), in [0, 255], with the channels in the
            order of INPUT.FORMAT. The function takes its random numbers from the global generators.
        num_classes: The number of classes. Labels are in 0 to ``num_classes - 1``.
        classes: The names of the classes in the order of the labels; () where they have none.
    """

    records: Records
    mapper: Callable[[Any], dict[str, Any]]
    num_classes: int
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.records)

    def first(self, count: int) -> "LabelledSplit":
        """Return a part of the split: the first images of a shuffled order, always the same one.

        Args:
            count: The number of images, at most ``len(self)``.
        """
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        return replace(self, records=_Part(self.records, order[:count].tolist()))


class _Part:
    """The records at some places of others."""

    def __init__(self, records: Records, places: list[int]):
        self.records, self.places = records, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        return self.records[self.places[index]]


class InMemory:
    """Records ``{"image": uint8 tensor, "label": int}`` whose images are in one tensor.

    Args:
        images: The images, (N, ...) uint8.
        labels: The labels, (N,) whole numbers.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor):
        self.images, self.labels = images, labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "label": self.labels[index]}


def resize(image: torch.Tensor, side: int) -> torch.Tensor:
    """Resize square images by bilinear interpolation.

    Args:
        image: The images, (..., h, h) uint8.
        side: The new height and width in pixels.

    Returns:
        The images, (..., side, side) uint8.
    """
    if image.shape[-1] == side:
        return image
    planes = image.reshape(1, -1, *image.shape[-2:])
    planes = F.interpolate(planes, (side, side), mode="bilinear", antialias=True)
    return planes.view(*image.shape[:-2], side, side)


def root_places(root: str) -> list[str]:
    """Return the folders in which ``PRETRAIN.ROOT`` is searched, in this order.

    Args:
        root: The value of the key.
    """
    places = [os.path.expanduser(root)]
    if not os.path.isabs(places[0]):
        places.append(os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), root))
    return places
