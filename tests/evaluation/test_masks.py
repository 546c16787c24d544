"""RLE from parts of an image against pycocotools and Detectron2 on whole ones."""

import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from pycocotools import mask as mask_util
from torch.nn import functional as F

from gn_det.evaluation import masks as masks_module
from gn_det.evaluation.masks import encode_masks, encode_roi_masks


def reference(masks):
    """Return what Detectron2's evaluator makes of (N, H, W)."""
    encoded = [mask_util.encode(np.asfortranarray(m.numpy().astype(np.uint8))) for m in masks]
    return [{**rle, "counts": rle["counts"].decode()} for rle in encoded]


def blank(height=6, width=5):
    return torch.zeros(height, width, dtype=torch.bool)


def with_ones(*places):
    mask = blank()
    for place in places:
        mask[place] = True
    return mask


HAND_MADE = {
    "empty": blank(),
    "full": ~blank(),
    "first pixel": with_ones((0, 0)),
    "last pixel": with_ones((5, 4)),
    "one column": with_ones((slice(None), 2)),
    "columns that touch": with_ones((slice(None), slice(1, 3))),
    "end of one column and start of the next": with_ones((slice(3, 6), 1), (slice(0, 2), 2)),
    "the last row": with_ones((5, slice(None))),
    "the first row": with_ones((0, slice(None))),
    "two pieces": with_ones((slice(1, 3), 1), (slice(4, 6), 4)),
    "a hole": with_ones((slice(1, 5), slice(1, 4))) & ~with_ones((3, 2)),
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made_mask(name):
    masks = HAND_MADE[name][None]
    assert encode_masks(masks) == reference(masks)


def test_hand_worked_runs():
    # 3 rows: columns 010, 011, 100 -> 1 zero, 1 one, 2 zeros, 3 ones (over a column's end), 2 zeros
    mask = torch.tensor([[0, 0, 1], [1, 1, 0], [0, 1, 0]], dtype=torch.bool)
    expected = mask_util.frPyObjects({"size": [3, 3], "counts": [1, 1, 2, 3, 2]}, 3, 3)
    assert encode_masks(mask[None])[0]["counts"] == expected["counts"].decode()


@pytest.mark.parametrize("max_pixels", [1, 50, 2**20])
def test_many_masks_together(monkeypatch, max_pixels):
    monkeypatch.setattr(masks_module, "MAX_PIXELS", max_pixels)
    rng = torch.Generator().manual_seed(0)
    masks = torch.rand(20, 6, 5, generator=rng) > torch.rand(20, 1, 1, generator=rng)
    masks = torch.cat([blank()[None], masks, torch.stack(list(HAND_MADE.values())), blank()[None]])
    assert encode_masks(masks) == reference(masks)


def test_types_of_masks():
    mask = HAND_MADE["a hole"][None]
    for dtype in (torch.uint8, torch.int64, torch.float32):
        assert encode_masks(mask.to(dtype)) == reference(mask)


def test_no_masks():
    assert encode_masks(torch.zeros(0, 6, 5, dtype=torch.bool)) == []
    assert encode_roi_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (6, 5)) == []


def soft_masks(count, size, seed):
    """Return (N, M, M) blobs in 0 to 1, smooth as a head's."""
    rng = torch.Generator().manual_seed(seed)
    noise = F.avg_pool2d(torch.randn(count, 1, size, size, generator=rng), 7, 1, 3)[:, 0]
    place = torch.linspace(-1, 1, size)
    return torch.sigmoid(6 * (0.8 - place**2 - place[:, None] ** 2) + 20 * noise)


def random_boxes(count, height, width, seed):
    """Return (N, 4) XYXY within the image; small, large, some at its edges or all of it."""
    rng = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=rng) * torch.tensor([width, height])
    low, high = corners.amin(1), corners.amax(1)
    low[::7] = 0
    high[::5] = torch.tensor([width, height])
    high[3::5] = low[3::5] + 0.3  # within a pixel
    return torch.cat([low, high + 0.01], dim=1)


@pytest.mark.parametrize("size", [(64, 48), (37, 101), (9, 7)])
@pytest.mark.parametrize("side", [28, 14])
def test_roi_masks_are_detectron2_s(size, side):
    masks, boxes = soft_masks(60, side, seed=1), random_boxes(60, *size, seed=2)
    pasted = paste_masks_in_image(masks, boxes, size)
    assert 0.05 < pasted.float().mean() < 0.95
    assert encode_roi_masks(masks, boxes, size) == reference(pasted)


def test_roi_masks_in_several_groups(monkeypatch):
    monkeypatch.setattr(masks_module, "MAX_PIXELS", 500)
    masks, boxes = soft_masks(30, 28, seed=3), random_boxes(30, 60, 40, seed=4)
    expected = reference(paste_masks_in_image(masks, boxes, (60, 40)))
    assert encode_roi_masks(masks, boxes, (60, 40)) == expected


@pytest.mark.parametrize("kind", ["0.5 everywhere", "near 0.5", "0 and 1", "noise", "NaN"])
def test_roi_masks_that_are_close(kind):
    rng = torch.Generator().manual_seed(5)
    noise = torch.rand(12, 28, 28, generator=rng)
    masks = {
        "0.5 everywhere": torch.full_like(noise, 0.5),
        "near 0.5": 0.5 + (noise - 0.5) * 1e-6,
        "0 and 1": noise.round(),
        "noise": noise,
        "NaN": noise.masked_fill(noise > 0.97, torch.nan),
    }[kind]
    boxes = random_boxes(12, 50, 70, seed=6)
    pasted = paste_masks_in_image(masks, boxes, (50, 70))
    assert encode_roi_masks(masks, boxes, (50, 70)) == reference(pasted)


def test_roi_mask_outside_of_the_image():
    # where Detectron2 raises, or has the part that is inside
    masks = torch.ones(3, 28, 28)
    boxes = torch.tensor([[-30.0, -20, -10, -5], [90, 90, 99, 99], [-5, -5, 5, 5]])
    part = paste_masks_in_image(masks[2:], boxes[2:], (40, 40))
    assert part.sum() == 25
    nothing = torch.zeros(2, 40, 40, dtype=torch.bool)
    assert encode_roi_masks(masks, boxes, (40, 40)) == reference(torch.cat([nothing, part]))


def test_low_precision_is_widened():
    masks = soft_masks(5, 28, seed=7).bfloat16()
    boxes = random_boxes(5, 300, 300, seed=8)
    pasted = paste_masks_in_image(masks.float(), boxes, (300, 300))
    assert encode_roi_masks(masks, boxes, (300, 300)) == reference(pasted)
