"""RoIAlign of box and mask head: time and error of gn_det's pooler and Detectron2's.

Both pool the same boxes from the same features, p2 to p5, in turn. The boxes have random places and
shapes, and log-uniform sizes from 16 pixels to the image's height. An error is the largest
difference from Detectron2's pooler in float64, relative to the largest entry.

Shapes:
    N: images
    R: RoIs
    C: channels
    P: bins of a RoI along one side
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from detectron2.modeling import poolers
from detectron2.structures import Boxes
from tabulate import tabulate
from torch import nn

from gn_det.modeling.poolers import ROIPooler

from .options import add_numbers
from .timing import device_seconds_of, interleave, summary

__all__ = ["add_arguments", "random_boxes", "measure", "run", "table"]

STRIDES = (4, 8, 16, 32)
POOLERS = {"detectron2": poolers.ROIPooler, "gn_det": ROIPooler}
KINDS = {
    "fp32": (torch.float32, torch.contiguous_format),
    "fp32-channels_last": (torch.float32, torch.channels_last),
    "bf16": (torch.bfloat16, torch.contiguous_format),
    "bf16-channels_last": (torch.bfloat16, torch.channels_last),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``tools/benchmark.py roi-align``."""
    numbers = {
        "images": (2, "images in the batch"),
        "height": (480, "height of an image in pixels"),
        "width": (640, "width of an image in pixels"),
        "rois": (1024, "RoIs in the batch, pooled to 7x7; a fifth of them to 14x14, for masks"),
        "channels": (256, "channels of the features"),
        "repeats": (5, "timed runs of each pooler"),
        "warmup": (1, "untimed runs before"),
    }
    add_numbers(parser, numbers)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the pooling of box and mask head and return the record; see :func:`measure`."""
    setting = {key: getattr(args, key) for key in ("images", "height", "width", "rois", "channels")}
    heads = {
        f"{bins}x{bins}, {rois} RoIs": {
            kind: measure(kind, bins, {**setting, "rois": rois}, args.repeats, args.warmup)
            for kind in KINDS
        }
        for bins, rois in ((7, args.rois), (14, args.rois // 5))
    }
    return {
        "benchmark": "roi-align",
        "setting": setting,
        "repeats": args.repeats,
        "warmup": args.warmup,
        "heads": heads,
    }


def measure(
    kind: str, bins: int, setting: dict[str, int], repeats: int, warmup: int
) -> dict[str, dict[str, Any]]:
    """Return seconds and errors, forward and backward, by pooler.

    Args:
        kind: The dtype and memory format of the features, a key of :data:`KINDS`.
        bins: The number of bins P.
        setting: The numbers ``images``, ``height``, ``width``, ``rois`` and ``channels``.
        repeats: The number of timed runs of each pooler.
        warmup: The number of untimed runs before.
    """
    dtype, layout = KINDS[kind]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rng = torch.Generator().manual_seed(0)
    boxes = random_boxes(
        setting["images"], setting["height"], setting["width"], setting["rois"], rng
    )
    boxes = [Boxes(of_image.to(device)) for of_image in boxes]
    # padded as by Detectron2 for an FPN
    height, width = (-(-setting[side] // 32) * 32 for side in ("height", "width"))
    shape = setting["images"], setting["channels"]
    maps = [torch.randn(*shape, height // s, width // s, generator=rng) for s in STRIDES]
    features = [x.to(device, dtype, memory_format=layout).requires_grad_() for x in maps]
    grad = torch.randn(setting["rois"], setting["channels"], bins, bins, generator=rng)
    grad = grad.to(device, dtype)

    modules = {
        name: cls(bins, [1 / s for s in STRIDES], 0, "ROIAlignV2") for name, cls in POOLERS.items()
    }
    doubles = [x.detach().double().requires_grad_() for x in features]
    reference = modules["detectron2"](doubles, boxes)
    reference_grads = torch.autograd.grad(reference, doubles, grad.double())
    rows: dict[str, dict[str, Any]] = {}
    works: dict[str, Callable[[], Any]] = {}
    for name, module in modules.items():
        out = _pool(module, features, boxes)
        backward = partial(_backward, out, features, torch.empty_like(out).copy_(grad))
        works[f"{name} forward"] = partial(_pool, module, features, boxes)
        works[f"{name} backward"] = backward
        rows[name] = {
            "forward_error": _error(out, reference),
            "backward_error": max(_error(*pair) for pair in zip(backward(), reference_grads)),
        }
    del reference, reference_grads, doubles
    times = interleave(works, repeats, warmup, clock=device_seconds_of)
    for name, row in rows.items():
        for way in ("forward", "backward"):
            row[way] = summary(times[f"{name} {way}"])
            median = rows["detectron2"][way]["seconds"]
            row[f"{way}_ratio"] = row[way]["seconds"] / median
    return rows


def random_boxes(
    images: int, height: int, width: int, rois: int, rng: torch.Generator
) -> list[torch.Tensor]:
    """Return the boxes of each image, of shape (R / N, 4). The first image gets the remainder."""
    counts = [rois // images + (rois % images if index == 0 else 0) for index in range(images)]
    found = []
    for count in counts:
        size = 16 * (height / 16) ** torch.rand(count, generator=rng)
        side = 4 ** (torch.rand(count, generator=rng) - 0.5)  # width to height from 1:2 to 2:1
        half = torch.stack([size * side.sqrt(), size / side.sqrt()], dim=1) / 2
        center = torch.rand(count, 2, generator=rng) * torch.tensor([width, height])
        boxes = Boxes(torch.cat([center - half, center + half], dim=1))
        boxes.clip((height, width))
        found.append(boxes.tensor)
    return found


def table(record: dict[str, Any]) -> str:
    """Return a table with a row for each head, kind of features, and pooler."""
    rows = [
        [
            head,
            kind,
            name,
            f"{row['forward']['seconds'] * 1e3:.2f}",
            f"{row['backward']['seconds'] * 1e3:.2f}",
            f"{row['forward_ratio']:.2f}",
            f"{row['backward_ratio']:.2f}",
            f"{row['forward_error']:.0e}",
            f"{row['backward_error']:.0e}",
        ]
        for head, kinds in record["heads"].items()
        for kind, poolers_ in kinds.items()
        for name, row in poolers_.items()
    ]
    headers = ["head", "features", "pooler", "forward (ms)", "backward (ms)"]
    headers += ["forward ratio", "backward ratio", "forward error", "backward error"]
    s = record["setting"]
    caption = (
        f"RoIAlign, {s['images']} images of {s['height']}x{s['width']}, {s['channels']} channels; "
        f"median of {record['repeats']}; ratios to detectron2"
    )
    return f"{caption}\n\n{tabulate(rows, headers, disable_numparse=True)}"


def _pool(module: nn.Module, features: list[torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
    # as in a model: torchvision supports bfloat16 only under autocast
    low = features[0].dtype == torch.bfloat16
    with torch.autocast(features[0].device.type, torch.bfloat16, enabled=low):
        return module(features, boxes)


def _backward(
    out: torch.Tensor, features: list[torch.Tensor], grad: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(out, features, grad, retain_graph=True)


def _error(x: torch.Tensor, reference: torch.Tensor) -> float:
    largest = reference.abs().max() if reference.numel() else 0
    return ((x - reference).abs().max() / largest).item() if largest else 0.0
