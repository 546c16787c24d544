"""RoIAlign beside torchvision's, the encoding of masks, and what a norm costs the CPU."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks import roi_align
from benchmarks.timing import interleave, summary
from gn_det.evaluation.masks import encode_masks, encode_roi_masks
from gn_det.layers import GroupNorm

from .correctness import WAYS
from .device import DEVICE, host_seconds
from .session import Section
from .steps import HEIGHT, WIDTH

__all__ = ["measure"]

MASKS, SIDE = 100, 28  # detections of an image, and the pixels of a predicted mask


def measure(section: Section) -> None:
    """Add rows for RoIAlign of box and mask head, for 100 masks, and for the norms."""
    kinds = ("bf16-channels_last", "fp32") if not section.dry else ("fp32",)
    for bins, rois in ((7, 1024), (14, 256)):
        for kind in kinds:
            name = f"RoIAlign {bins}x{bins} {kind}"
            if not section.has_time(name, 5):
                continue
            with section.row(name) as row:
                of = {"images": 2, "height": HEIGHT, "width": WIDTH, "rois": rois, "channels": 256}
                if section.dry:
                    of = {"images": 2, "height": 64, "width": 96, "rois": 8, "channels": 8}
                row.update(roi_align.measure(kind, bins, of, *((1, 0) if section.dry else (9, 3))))
    with section.row("host") as row:
        row.update(_host(calls=3 if section.dry else 300))
    with section.row("masks") as row:
        row.update(_masks(section.dry))


def _host(calls: int) -> dict[str, float]:
    """Return the seconds of the CPU for a norm with ReLU, forward and with backward."""
    norm = GroupNorm(64).to(DEVICE)
    x = torch.randn(2, 64, 4, 4, device=DEVICE, dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    inputs = [x, norm.weight, norm.bias]
    found = {}
    for way, function in WAYS.items():
        if way == "kernels" and DEVICE == "cpu":
            continue

        def forward(function: Callable = function) -> torch.Tensor:
            return function(x, norm, True, None)

        dy = torch.randn_like(forward())

        def train(forward: Callable = forward, dy: torch.Tensor = dy) -> None:
            torch.autograd.grad(forward(), inputs, dy)

        found[f"{way} forward"] = host_seconds(forward, calls)
        found[f"{way} training"] = host_seconds(train, calls)
    return found


def _masks(dry: bool) -> dict[str, dict]:
    """Return the times of encoding an image's masks, from masks of 28x28 and of the whole image."""
    height, width, count = (64, 96, 3) if dry else (HEIGHT, WIDTH, MASKS)
    rng = torch.Generator().manual_seed(0)
    boxes = torch.cat(roi_align.random_boxes(1, height, width, count, rng)).to(DEVICE)
    masks = torch.rand(count, 1, 7, 7, generator=rng)
    masks = F.interpolate(masks, (SIDE, SIDE), mode="bilinear")[:, 0].to(DEVICE)
    whole = torch.zeros(count, height, width, dtype=torch.bool, device=DEVICE)
    for mask, (x0, y0, x1, y1) in zip(whole, boxes.int().tolist()):
        mask[y0:y1, x0:x1] = True
    works = {
        "from boxes": lambda: encode_roi_masks(masks, boxes, (height, width)),
        "from whole images": lambda: encode_masks(whole),
    }
    return {n: summary(t) for n, t in interleave(works, 1 if dry else 5).items()}
