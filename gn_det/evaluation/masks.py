"""Encoding of masks as COCO's RLE that looks only at the pixels around each object.

Detectron2 pastes each mask of 28x28 pixels into a mask of the image's size, and pycocotools encodes
all pixels of these, one mask after the other. On a CPU this takes longer than a small detector.
Here only the part of the image around each object is pasted and encoded. The result is the same.

Shapes:
    N: detections
    H, W: height and width of the image
    M: height and width of a predicted mask
    h, w: height and width of the part of the image around one object
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from pycocotools import mask as mask_util
from torch.nn import functional as F

__all__ = ["encode_masks", "encode_roi_masks"]

THRESHOLD = 0.5  # the same as in Detectron2's detector_postprocess
MARGIN = 2e-5  # our interpolation and Detectron2's differ by about 5e-6
MAX_PIXELS = 2**20  # pixels that are pasted at once: 4 MiB in float32


class _Parts(NamedTuple):
    """The parts of an image around N objects, in pixels. ``right`` and ``bottom`` are exclusive.

    The pixels of all parts are stored in one flat array: part after part, column by column (the
    order of RLE), with an additional 0 at the end of each column, so that no run crosses columns.

    Attributes:
        left, right, top, bottom: The edges of each part, of shape (N,) and dtype int64.
    """

    left: torch.Tensor
    right: torch.Tensor
    top: torch.Tensor
    bottom: torch.Tensor

    @property
    def widths(self) -> torch.Tensor:
        return self.right - self.left

    @property
    def strides(self) -> torch.Tensor:
        return self.bottom - self.top + 1

    @property
    def ends(self) -> torch.Tensor:
        return (self.widths * self.strides).cumsum(0)

    def groups(self) -> Iterator[tuple[slice, "_Parts"]]:
        """Split the parts into groups of about ``MAX_PIXELS`` pixels, at least one part each."""
        first = 0
        for count in ((self.ends - 1) // MAX_PIXELS).unique_consecutive(return_counts=True)[1]:
            chosen = slice(first, first := first + int(count))
            yield chosen, _Parts(*(side[chosen] for side in self))

    def blocks(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Return a view of the flat array for each part, of shape (w, h + 1)."""
        sizes = zip(self.widths.tolist(), self.strides.tolist())
        parts = flat.split((self.widths * self.strides).tolist())
        return [part.view(size) for part, size in zip(parts, sizes)]

    def places(self, flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the part, and column and row in the part, of indices of the flat array."""
        owner = torch.searchsorted(self.ends, flat, right=True)
        start = (self.ends - self.widths * self.strides)[owner]
        stride = self.strides[owner]
        return owner, (flat - start) // stride, (flat - start) % stride

    def encode(self, inside: torch.Tensor, height: int, width: int) -> list[dict]:
        """Return the RLE of each part.

        Args:
            inside: The flat bool array.
            height: The height H of the image.
            width: The width W of the image.
        """
        before = torch.cat([inside.new_zeros(1), inside])[:-1]
        owner, x, y = self.places((inside != before).nonzero()[:, 0])
        place = (self.left[owner] + x) * height + self.top[owner] + y
        # runs touch where one ends at the image's last row and the next starts in the first row
        key = owner * (height * width + 1) + place
        touch = key[1:] == key[:-1]
        keep = torch.ones_like(key, dtype=torch.bool)
        keep[1:] &= ~touch
        keep[:-1] &= ~touch
        owner, place = owner[keep], place[keep]
        # the borders of a mask's runs: 0, the places of its changes, the number of pixels
        changes = torch.bincount(owner, minlength=len(self.left))
        ends = (changes + 2).cumsum(0)
        borders = torch.full((int(ends[-1]),), height * width)
        borders[ends - changes - 2] = 0
        borders[torch.arange(len(place)) + 2 * owner + 1] = place
        counts = (borders[1:] - borders[:-1]).numpy()
        runs = [counts[end - n - 2 : end - 1] for end, n in zip(ends.tolist(), changes.tolist())]
        rles = mask_util.frPyObjects(
            [{"size": [height, width], "counts": r if r[-1] else r[:-1]} for r in runs],
            height,
            width,
        )
        return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in rles]


def encode_masks(masks: torch.Tensor) -> list[dict]:
    """Encode masks of the image's size, as ``pycocotools.mask.encode`` does.

    Args:
        masks: The masks of shape (N, H, W), bool or 0 and 1, on any device.

    Returns:
        The RLE of each mask, with ``counts`` as text for JSON.
    """
    height, width = masks.shape[1:]
    masks = masks.detach().cpu()
    # amax is fast for bytes, and undefined without pixels
    masks = masks.view(torch.uint8) if masks.dtype == torch.bool else masks.to(torch.uint8)
    if not masks.numel():
        masks = masks.new_zeros(len(masks), 1, 1)
    parts = _Parts(*_extent(masks.amax(1)), *_extent(masks.amax(2)))
    rles = []
    for chosen, group in parts.groups():
        inside = torch.zeros(int(group.ends[-1]), dtype=torch.bool)
        edges = torch.stack(group, dim=1).tolist()
        for mask, block, (x, x_end, y, y_end) in zip(masks[chosen], group.blocks(inside), edges):
            block[:, :-1] = mask[y:y_end, x:x_end].T
        rles += group.encode(inside, height, width)
    return rles


def _extent(shown: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the index of the first nonzero of each row, and of the last plus 1."""
    size = shown.shape[1]
    places = torch.arange(size)
    shown = shown != 0
    first = torch.where(shown, places, size).amin(1)
    end = torch.where(shown, places + 1, 0).amax(1)
    return first.clamp(max=end), end


def encode_roi_masks(
    masks: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int]
) -> list[dict]:
    """Encode the masks that a mask head predicts for boxes.

    The result is that of Detectron2's ``paste_masks_in_image`` and ``pycocotools.mask.encode``. The
    interpolation is linear in y and in x, and is computed here along one axis after the other.
    Pixels too close to the threshold are computed again by ``grid_sample``, as in Detectron2.

    Args:
        masks: The probabilities of shape (N, M, M), in [0, 1]. They are converted to float32.
        boxes: The boxes of shape (N, 4), XYXY, in pixels of the image. None is empty.
        image_size: The height H and width W of the image.

    Returns:
        The RLE of each mask, with ``counts`` as text for JSON.
    """
    height, width = image_size
    masks = masks.detach().to("cpu", torch.float32)
    boxes = boxes.detach().to("cpu", torch.float32)
    x0, y0, x1, y1 = boxes.unbind(1)
    # the same pixels as in detectron2.layers.mask_ops._do_paste_mask
    left, right = (x0.floor() - 1).clamp(0, width), (x1.ceil() + 1).clamp(0, width)
    top, bottom = (y0.floor() - 1).clamp(0, height), (y1.ceil() + 1).clamp(0, height)
    parts = _Parts(left.long(), right.long(), top.long(), bottom.long())
    rles = []
    for chosen, group in parts.groups():
        rles += group.encode(_paste(masks[chosen], boxes[chosen], group), height, width)
    return rles


def _paste(masks: torch.Tensor, boxes: torch.Tensor, parts: _Parts) -> torch.Tensor:
    """Return the flat bool array of ``parts`` for masks (N, M, M) in their boxes (N, 4)."""
    x0, y0, x1, y1 = boxes.unbind(1)
    size = masks.shape[1]
    grid_x = _grid(x0, x1, parts.left, parts.widths)
    grid_y = _grid(y0, y1, parts.top, parts.strides)
    # not a matrix product: for such small ones threads cost more than they save
    rows = F.pad(masks, (1, 1, 1, 1)).view(-1, size + 2)
    low, share = _between(grid_y, size)
    low += (size + 2) * torch.arange(len(masks)).repeat_interleave(parts.strides)
    strips = torch.lerp(rows[low], rows[low + 1], share)  # (sum of h + 1, M + 2)
    strips[parts.strides.cumsum(0) - 1] = 0  # the additional 0 of each column
    values = torch.empty(int(parts.ends[-1]))
    widths = parts.widths.tolist()
    low, share = (t.split(widths) for t in _between(grid_x, size))
    for strip, at, part, block in zip(
        strips.split(parts.strides.tolist()), low, share, parts.blocks(values)
    ):
        columns = strip.T.contiguous()
        torch.lerp(columns[at], columns[at + 1], part, out=block)
    inside = values >= THRESHOLD
    sure = values.sub_(THRESHOLD).abs_() > MARGIN  # False for NaN
    unsure = sure.logical_not_().nonzero()[:, 0]
    owner, x, y = parts.places(unsure)
    real = y < parts.strides[owner] - 1
    unsure, owner, x, y = (place[real] for place in (unsure, owner, x, y))
    grid = torch.stack(
        [
            grid_x[(parts.widths.cumsum(0) - parts.widths)[owner] + x],
            grid_y[(parts.strides.cumsum(0) - parts.strides)[owner] + y],
        ],
        dim=1,
    )
    own, counts = owner.unique_consecutive(return_counts=True)
    pieces = zip(own.tolist(), grid.split(counts.tolist()), unsure.split(counts.tolist()))
    for i, points, places in pieces:
        sampled = F.grid_sample(masks[i, None, None], points[None, None], align_corners=False)
        inside[places] = sampled[0, 0, 0] >= THRESHOLD
    return inside


def _grid(
    low: torch.Tensor, high: torch.Tensor, first: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """Return the coordinates, in [-1, 1], of the pixels of all parts along one axis.

    The arithmetic is Detectron2's.

    Args:
        low: The lower edge of each box, of shape (N,).
        high: The upper edge of each box, of shape (N,).
        first: The first pixel of each part, of shape (N,).
        counts: The number of pixels of each part, of shape (N,).
    """
    owner = torch.arange(len(counts)).repeat_interleave(counts)
    pixel = torch.arange(len(owner)) - (counts.cumsum(0) - counts - first)[owner]
    return (pixel.float() + 0.5 - low[owner]) / (high - low)[owner] * 2 - 1


def _between(grid: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first of the two mask pixels around each coordinate, and the second one's weight.

    Args:
        grid: The coordinates in [-1, 1], of shape (L,).
        size: The height or width M of the mask, which has a border of one 0 here.

    Returns:
        The indices of shape (L,), and the weights of shape (L, 1) in [0, 1].
    """
    position = (((grid + 1) * size - 1) / 2).nan_to_num(-1).clamp(-1, size)
    low = position.floor().clamp(max=size - 1)
    return low.long() + 1, (position - low)[:, None]
