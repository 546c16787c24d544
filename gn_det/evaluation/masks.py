"""Masks of detections to COCO's RLE, looking only at the pixels around each of them.

Detectron2 pastes each mask of 28x28 into a mask of the image's size, and pycocotools then runs over
all of its pixels, one mask after the other: on a CPU that takes longer than a small detector. Here
the runs come from the part of the image where a mask lies, and are the same to the last one.

Shapes: N = detections, H, W = the image, M = side of a predicted mask, h, w = one mask's part.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from pycocotools import mask as mask_util
from torch.nn import functional as F

__all__ = ["encode_masks", "encode_roi_masks"]

THRESHOLD = 0.5  # detector_postprocess's
MARGIN = 2e-5  # more than the two ways of interpolating differ by, which is about 5e-6
MAX_PIXELS = 2**20  # of the parts that are looked at together: 4 MiB in fp32


class _Parts(NamedTuple):
    """Where N masks lie in an image: (N,) whole pixels each, ``right`` and ``bottom`` outside.

    What they hold is kept in one flat array: part after part, each column by column as RLE runs,
    each column with one pixel more at its end. That one is 0, so that no run leaves its column.
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
        """Cut into stretches of about ``MAX_PIXELS`` pixels, or of one part that has more."""
        first = 0
        for count in ((self.ends - 1) // MAX_PIXELS).unique_consecutive(return_counts=True)[1]:
            chosen = slice(first, first := first + int(count))
            yield chosen, _Parts(*(side[chosen] for side in self))

    def blocks(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Return each part's view of the flat array, (w, h + 1)."""
        sizes = zip(self.widths.tolist(), self.strides.tolist())
        parts = flat.split((self.widths * self.strides).tolist())
        return [part.view(size) for part, size in zip(parts, sizes)]

    def places(self, flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the owner, and the column and row in its part, of places in the flat array."""
        owner = torch.searchsorted(self.ends, flat, right=True)
        start = (self.ends - self.widths * self.strides)[owner]
        stride = self.strides[owner]
        return owner, (flat - start) // stride, (flat - start) % stride

    def encode(self, inside: torch.Tensor, height: int, width: int) -> list[dict]:
        """Return the RLEs of the flat bool array, in an image of that size."""
        before = torch.cat([inside.new_zeros(1), inside])[:-1]
        owner, x, y = self.places((inside != before).nonzero()[:, 0])
        place = (self.left[owner] + x) * height + self.top[owner] + y
        # a run may end at the image's last row, and the next start at the first row beside it
        key = owner * (height * width + 1) + place
        touch = key[1:] == key[:-1]
        keep = torch.ones_like(key, dtype=torch.bool)
        keep[1:] &= ~touch
        keep[:-1] &= ~touch
        owner, place = owner[keep], place[keep]
        # each mask's runs lie between 0, its places and the number of pixels
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
    """Encode masks of the image's size; equal to ``pycocotools.mask.encode`` on each.

    Args:
        masks: (N, H, W) bool, or 0 and 1, on any device.

    Returns:
        RLEs with ``counts`` as text, ready for JSON.
    """
    height, width = masks.shape[1:]
    masks = masks.detach().cpu()
    # amax is quick for bytes, and there is none of no pixels
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
    """Return the first place that is not 0, and the one after the last, of each row."""
    size = shown.shape[1]
    places = torch.arange(size)
    shown = shown != 0
    first = torch.where(shown, places, size).amin(1)
    end = torch.where(shown, places + 1, 0).amax(1)
    return first.clamp(max=end), end


def encode_roi_masks(
    masks: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int]
) -> list[dict]:
    """Encode masks as a head predicts them, each in its box.

    Equal to Detectron2's ``paste_masks_in_image`` with ``pycocotools.mask.encode`` after it: its
    interpolation is linear in y and in x, so one after the other does it, and pixels too close to
    the threshold to be sure are looked up by its own ``grid_sample``.

    Args:
        masks: (N, M, M) probabilities, 0 to 1; low precision is widened to fp32.
        boxes: (N, 4) XYXY in the image's pixels, not empty.
        image_size: H, W.

    Returns:
        RLEs with ``counts`` as text, ready for JSON.
    """
    height, width = image_size
    masks = masks.detach().to("cpu", torch.float32)
    boxes = boxes.detach().to("cpu", torch.float32)
    x0, y0, x1, y1 = boxes.unbind(1)
    # what detectron2.layers.mask_ops._do_paste_mask looks at
    left, right = (x0.floor() - 1).clamp(0, width), (x1.ceil() + 1).clamp(0, width)
    top, bottom = (y0.floor() - 1).clamp(0, height), (y1.ceil() + 1).clamp(0, height)
    parts = _Parts(left.long(), right.long(), top.long(), bottom.long())
    rles = []
    for chosen, group in parts.groups():
        rles += group.encode(_paste(masks[chosen], boxes[chosen], group), height, width)
    return rles


def _paste(masks: torch.Tensor, boxes: torch.Tensor, parts: _Parts) -> torch.Tensor:
    """Return the flat bool array of masks (N, M, M) in their boxes (N, 4)."""
    x0, y0, x1, y1 = boxes.unbind(1)
    size = masks.shape[1]
    grid_x = _grid(x0, x1, parts.left, parts.widths)
    grid_y = _grid(y0, y1, parts.top, parts.strides)
    # no matrix product with the weights: for so small ones threads cost more than they save
    rows = F.pad(masks, (1, 1, 1, 1)).view(-1, size + 2)
    low, share = _between(grid_y, size)
    low += (size + 2) * torch.arange(len(masks)).repeat_interleave(parts.strides)
    strips = torch.lerp(rows[low], rows[low + 1], share)  # (sum of h + 1, M + 2)
    strips[parts.strides.cumsum(0) - 1] = 0  # the pixel more
    values = torch.empty(int(parts.ends[-1]))
    widths = parts.widths.tolist()
    low, share = (t.split(widths) for t in _between(grid_x, size))
    for strip, at, part, block in zip(
        strips.split(parts.strides.tolist()), low, share, parts.blocks(values)
    ):
        columns = strip.T.contiguous()
        torch.lerp(columns[at], columns[at + 1], part, out=block)
    inside = values >= THRESHOLD
    sure = values.sub_(THRESHOLD).abs_() > MARGIN  # NaN is not
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
        exact = F.grid_sample(masks[i, None, None], points[None, None], align_corners=False)
        inside[places] = exact[0, 0, 0] >= THRESHOLD
    return inside


def _grid(low: torch.Tensor, high: torch.Tensor, first: torch.Tensor, counts: torch.Tensor):
    """Return where pixels lie in their masks, -1 to 1, by Detectron2's arithmetic; all in a row."""
    owner = torch.arange(len(counts)).repeat_interleave(counts)
    pixel = torch.arange(len(owner)) - (counts.cumsum(0) - counts - first)[owner]
    return (pixel.float() + 0.5 - low[owner]) / (high - low)[owner] * 2 - 1


def _between(grid: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first of the two pixels, of a mask with a border of 0, that a place lies between.

    And how much of the second one counts, (len(grid), 1) in 0 to 1.
    """
    position = (((grid + 1) * size - 1) / 2).nan_to_num(-1).clamp(-1, size)
    low = position.floor().clamp(max=size - 1)
    return low.long() + 1, (position - low)[:, None]
