"""Images and clips with labels, for pre-training: what all sources of them give."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import Subset

__all__ = ["InMemory", "LabelledSplit", "resize", "root_places"]


@dataclass(frozen=True)
class LabelledSplit:
    """One split, train or val, of a source.

    Args:
        records: a sequence, of dicts where an error is to name the ``file_name``.
        mapper: makes of a record ``{"image": (3, CROP, CROP) or, of clips, (3, T, CROP, CROP) in 0
            to 255 and ordered as INPUT.FORMAT, "label": int}``. Its random numbers are those of
            the global generators.
        num_classes: labels are 0 to ``num_classes - 1``.
    """

    records: Sequence[Any]
    mapper: Callable[[Any], dict[str, Any]]
    num_classes: int

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.records)

    def first(self, count: int) -> "LabelledSplit":
        """Return the split of the first ``count`` images of a shuffled order, always the same."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        return replace(self, records=Subset(self.records, order[:count].tolist()))


class InMemory(Sequence[dict]):
    """Records ``{"image": uint8 tensor, "label": int}`` of images that lie in one tensor.

    Args:
        images: (N, ...) uint8.
        labels: (N) whole numbers.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor):
        self.images, self.labels = images, labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "label": self.labels[index]}


def resize(image: torch.Tensor, side: int) -> torch.Tensor:
    """Return a square image (..., h, h) uint8 as (..., side, side), bilinear."""
    if image.shape[-1] == side:
        return image
    planes = image.reshape(1, -1, *image.shape[-2:])
    planes = F.interpolate(planes, (side, side), mode="bilinear", antialias=True)
    return planes.view(*image.shape[:-2], side, side)


def root_places(root: str) -> list[str]:
    """Return where ``PRETRAIN.ROOT`` is looked for, in this order."""
    places = [os.path.expanduser(root)]
    if not os.path.isabs(places[0]):
        places.append(os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), root))
    return places
