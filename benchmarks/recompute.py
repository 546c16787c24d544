"""Activation checkpointing of a ResNet stage: the mechanism of MODEL.GN.MEMORY and others.

Six bottlenecks of R50's res4 with GN, forward and backward:

standard   no checkpointing
cut        gn_det's lean mode: checkpoints of ``norm, ReLU, next convolution``
selective  PyTorch's selective checkpointing of each block, with a policy that saves the outputs of
           the first two convolutions, as lean mode does (torch 2.4 and newer)
whole      gn_det's minimal mode: a checkpoint of each block, which saves only its input
nested     a checkpoint of each block in lean mode, which helps for heads but not for blocks
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from detectron2.modeling.backbone.resnet import ResNet
from tabulate import tabulate
from torch.utils import checkpoint as checkpointing

from gn_det.engine.memory_meter import MemoryMeter
from gn_det.layers import GroupNorm
from gn_det.modeling.activation_checkpointing import recompute
from gn_det.modeling.blocks import BottleneckBlock

from .options import add_numbers
from .records import MIB
from .timing import interleave, summary

__all__ = ["WAYS", "add_arguments", "run", "table"]


def _selective(block: BottleneckBlock, x: torch.Tensor) -> torch.Tensor:
    policy, inner = checkpointing.CheckpointPolicy, block.conv1.out_channels

    def save_inner(_context: Any, op: Any, *args: Any, **_kwargs: Any) -> Any:
        is_inner = op is torch.ops.aten.convolution.default and len(args[1]) == inner
        return policy.MUST_SAVE if is_inner else policy.PREFER_RECOMPUTE

    return checkpointing.checkpoint(
        block,
        x,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=partial(checkpointing.create_selective_checkpoint_contexts, save_inner),
    )


WAYS: dict[str, Callable[[BottleneckBlock, torch.Tensor], torch.Tensor]] = {
    "standard": lambda block, x: block(x),
    "cut": lambda block, x: block.forward_pieces(x, recompute),
    "selective": _selective,
    "whole": lambda block, x: recompute(block, x),
    "nested": lambda block, x: recompute(partial(block.forward_pieces, run=recompute), x),
}
if not hasattr(checkpointing, "create_selective_checkpoint_contexts"):
    del WAYS["selective"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``tools/benchmark.py recompute``."""
    numbers = {
        "repeats": (7, "timed runs of each way"),
        "blocks": (6, "blocks of the stage"),
        "channels": (1024, "channels of their outputs"),
        "images": (2, "images in the batch"),
        "height": (30, "height of the features"),
        "width": (40, "width of the features"),
    }
    add_numbers(parser, numbers)


def run(args: argparse.Namespace) -> dict:
    """Measure each way on the same blocks and input, and compare the gradients."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    blocks = ResNet.make_stage(
        BottleneckBlock,
        args.blocks,
        in_channels=args.channels // 2,
        out_channels=args.channels,
        bottleneck_channels=args.channels // 4,
        norm=GroupNorm,
    )
    blocks = torch.nn.ModuleList(blocks).to(device)
    shape = (args.images, args.channels // 2, args.height, args.width)
    x = torch.rand(shape, device=device, requires_grad=True)

    def forward(way: str) -> torch.Tensor:
        y = x * 1
        for block in blocks:
            y = WAYS[way](block, y)
        return y.square().mean()

    def step(way: str) -> None:
        blocks.zero_grad()
        forward(way).backward()

    rows, grads = {}, {}
    for way in WAYS:
        blocks.zero_grad()
        with MemoryMeter() as meter:
            loss = forward(way)
            saved = meter.alive_bytes()
            loss.backward()
        rows[way] = {"saved_bytes": saved, "peak_bytes": meter.peak_bytes}
        grads[way] = [p.grad.clone() for p in blocks.parameters()]
        rows[way]["equal"] = all(map(torch.equal, grads[way], grads["standard"]))
        del loss
    times = interleave({way: partial(step, way) for way in WAYS}, args.repeats)
    for way, row in rows.items():
        row.update(summary(times[way]))
    for row in rows.values():
        row["ratio"] = row["seconds"] / rows["standard"]["seconds"]
    return {"benchmark": "recompute", "blocks": args.blocks, "shape": shape, "ways": rows}


def table(record: dict) -> str:
    """Return the record as a table."""
    headers = ["way", "saved MiB", "peak MiB", "s", "ratio", "same gradients"]
    rows = [
        [
            way,
            f"{row['saved_bytes'] / MIB:.0f}",
            f"{row['peak_bytes'] / MIB:.0f}",
            f"{row['seconds']:.3f}",
            f"{row['ratio']:.2f}",
            "yes" if row["equal"] else "no",
        ]
        for way, row in record["ways"].items()
    ]
    shape = "x".join(map(str, record["shape"]))
    return f"{record['blocks']} bottlenecks on {shape}\n" + tabulate(rows, headers)
