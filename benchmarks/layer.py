"""A single GN with ReLU: time, GB/s and bytes saved, for each dtype and memory format.

The shapes are those of R50-FPN with box and mask head. Each repeat runs every way once, in turn, on
the same numbers. GB/s counts each tensor once: input and output in the forward pass, and in
training also the gradient of the output, the input again, and its gradient. A kernel that reads a
tensor twice has a lower number. On a GPU, times are those of the GPU alone, with a cold cache.

Shapes:
    N: images
    R: RoIs
    C: channels
    H, W: height and width
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import _dynamo as dynamo
from torch import nn

from gn_det.layers import GroupNorm
from gn_det.layers.group_norm import group_norm

from .options import add_numbers
from .records import MIB
from .timing import device_seconds_of, interleave, seconds_of, summary

__all__ = ["WAYS", "Way", "add_arguments", "layer_shapes", "measure", "run", "table"]

REFERENCE = "stock-fp32"


@dataclass(frozen=True)
class Way:
    """A way to compute ``relu(group_norm(x))``.

    Attributes:
        source: ``stock``: PyTorch's operator, under autocast if the precision is bf16;
            ``gn_det``: what a block of gn_det calls, also under autocast, which is a kernel with
            ReLU where kernels run; ``compiled``: both operations fused by ``torch.compile``, for
            dynamic sizes.
        precision: The precision of the input, ``fp32`` or ``bf16``. Weights are fp32.
        channels_last: Whether the input is channels_last.
    """

    source: str
    precision: str
    channels_last: bool = False

    @property
    def name(self) -> str:
        """``SOURCE-PRECISION``, with ``-channels_last`` if it is."""
        return f"{self.source}-{self.precision}" + "-channels_last" * self.channels_last

    def arrange(self, x: torch.Tensor) -> torch.Tensor:
        """Return a copy of ``x`` in this way's dtype and memory format."""
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return x.to(dtype, copy=True).contiguous(memory_format=layout)


WAYS = {
    way.name: way
    for way in (
        Way("stock", "fp32"),
        Way("stock", "fp32", channels_last=True),
        Way("stock", "bf16"),
        Way("stock", "bf16", channels_last=True),
        Way("gn_det", "bf16"),
        Way("gn_det", "bf16", channels_last=True),
        Way("compiled", "fp32"),
        Way("compiled", "bf16", channels_last=True),
    )
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``tools/benchmark.py layer``."""
    numbers = {
        "images": (2, "images in the batch"),
        "height": (480, "height of an image in pixels"),
        "width": (640, "width of an image in pixels"),
        "rois": (1024, "RoIs in the batch; a quarter of them has a mask"),
        "repeats": (5, "timed runs of each way"),
        "warmup": (1, "untimed runs before"),
    }
    add_numbers(parser, numbers)
    parser.add_argument(
        "--no-compile", action="store_true", help="skip torch.compile, which takes minutes"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every way on every shape and return the record; see :func:`measure`."""
    ways = [way for way in WAYS.values() if way.source != "compiled"]
    error, seconds = None, None
    if not args.no_compile:
        error, seconds = _try_to_compile()
        if error is None:
            ways = list(WAYS.values())
    layers = {
        name: measure(shape, ways, args.repeats, args.warmup)
        for name, shape in layer_shapes(args.images, args.height, args.width, args.rois).items()
    }
    return {
        "benchmark": "layer",
        "setting": {key: getattr(args, key) for key in ("images", "height", "width", "rois")},
        "repeats": args.repeats,
        "warmup": args.warmup,
        "compile_error": error,
        "first_compilation_seconds": seconds,
        "ways": {way.name: asdict(way) for way in ways},
        "layers": layers,
    }


def layer_shapes(
    images: int, height: int, width: int, rois: int
) -> dict[str, tuple[int, int, int, int]]:
    """Return the shapes of the norms' inputs in R50-FPN with 4conv1fc, the largest first.

    Args:
        images: The number of images N.
        height: The height of an image in pixels, a multiple of 32.
        width: The width of an image in pixels, a multiple of 32.
        rois: The number of RoIs R, of which a quarter has a mask.
    """
    channels = {
        "stem": (64, 2),
        "res2 inner": (64, 4),
        "res2 outer, p2": (256, 4),
        "res3 inner": (128, 8),
        "res3 outer": (512, 8),
        "p3": (256, 8),
        "res4 inner, p4": (256, 16),
        "res4 outer": (1024, 16),
        "res5 inner": (512, 32),
        "res5 outer": (2048, 32),
        "p5": (256, 32),
    }
    shapes = {
        name: (images, c, height // stride, width // stride)
        for name, (c, stride) in channels.items()
    }
    shapes["box head"] = (rois, 256, 7, 7)
    shapes["mask head"] = (rois // 4, 256, 14, 14)
    return shapes


def measure(
    shape: tuple[int, int, int, int], ways: list[Way], repeats: int, warmup: int = 1
) -> dict[str, Any]:
    """Return the costs of each way, by name.

    Args:
        shape: The shape (N, C, H, W) of the input.
        ways: The ways, which run in turn.
        repeats: The number of timed runs of each way, both forward and forward with backward.
        warmup: The number of untimed runs before.
    """
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(shape, device=device)
    norm = GroupNorm(shape[1]).to(device)
    layers = {way.name: _Layer(way, norm, x) for way in ways}
    time = partial(interleave, repeats=repeats, warmup=warmup, clock=device_seconds_of)
    seconds = {
        "forward": time({name: layer.forward for name, layer in layers.items()}),
        "training": time({name: layer.train for name, layer in layers.items()}),
    }
    rows = {}
    for name, layer in layers.items():
        row: dict[str, Any] = {"saved_bytes": layer.saved_bytes()}
        rows[name] = row
        for kind, nbytes in layer.least_bytes().items():
            row[kind] = summary(seconds[kind][name])
            row[kind]["gb_per_second"] = nbytes / row[kind]["seconds"] / 1e9
            if REFERENCE in layers:
                reference = summary(seconds[kind][REFERENCE])["seconds"]
                row[kind]["ratio"] = row[kind]["seconds"] / reference
    return {"shape": list(shape), "ways": rows}


class _Layer:
    """A way with its input, forward and with backward."""

    def __init__(self, way: Way, norm: GroupNorm, x: torch.Tensor):
        self.x = way.arrange(x).requires_grad_()
        self.device = x.device.type
        self.autocast = way.precision == "bf16" and way.source != "compiled"
        self.function = _function(way, norm)
        with torch.no_grad():
            y = self._run()
        self.dy = torch.randn_like(y)
        self.inputs = [self.x, norm.weight, norm.bias]

    def _run(self) -> torch.Tensor:
        context = torch.autocast(self.device, torch.bfloat16) if self.autocast else nullcontext()
        with context:
            return self.function(self.x)

    @torch.no_grad()
    def forward(self) -> None:
        """Run the layer as in inference."""
        self._run()

    def train(self) -> None:
        """Run the layer forward and backward."""
        torch.autograd.grad(self._run(), self.inputs, self.dy)

    def saved_bytes(self) -> int:
        """Return the bytes of distinct storages saved for backward, without parameters."""
        saved = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = self._run()
        for parameter in self.inputs[1:]:
            saved.pop(parameter.untyped_storage().data_ptr(), None)
        del y
        return sum(saved.values())

    def least_bytes(self) -> dict[str, int]:
        """Return the bytes that have to be moved if each tensor is read or written once."""
        x, y = (t.numel() * t.element_size() for t in (self.x, self.dy))
        return {"forward": x + y, "training": x + y + (y + x + x)}


def _function(way: Way, norm: GroupNorm) -> Callable[[torch.Tensor], torch.Tensor]:
    if way.source == "compiled":
        # one function for all: the compiler caches a graph for each dtype, format and width
        compiled = torch.compile(_norm_relu, dynamic=True)
        return partial(compiled, weight=norm.weight, bias=norm.bias)
    if way.source == "stock":
        return lambda x: F.relu_(nn.GroupNorm.forward(norm, x))
    return lambda x: group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, relu=True)


def _norm_relu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Compute the compiled form of :class:`GroupNorm`, and ReLU."""
    return F.relu(F.group_norm(x.to(weight.dtype).contiguous(), 32, weight, bias).to(x.dtype))


def _try_to_compile() -> tuple[str | None, float | None]:
    """Return why torch.compile does not work here (or None), and the seconds of a compilation."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    norm = GroupNorm(64).to(device)
    # beyond the limit the function would silently run without compilation
    limit = "recompile_limit" if hasattr(dynamo.config, "recompile_limit") else "cache_size_limit"
    setattr(dynamo.config, limit, 256)
    try:
        layer = _Layer(Way("compiled", "fp32"), norm, torch.randn(2, 64, 6, 10, device=device))
        return None, seconds_of(layer.train)
    except Exception as error:  # no C++ compiler, no Triton, a Python that is too new
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}", None


def table(record: dict[str, Any]) -> str:
    """Return a table of all layers. Ratios are to PyTorch's operator in fp32, contiguous."""
    rows = []
    for layer, measured in record["layers"].items():
        title = f"{layer} {'x'.join(map(str, measured['shape']))}"
        for name, row in measured["ways"].items():
            numbers = [
                number
                for kind in ("forward", "training")
                for number in (
                    row[kind]["seconds"] * 1e3,
                    row[kind]["gb_per_second"],
                    row[kind].get("ratio"),
                )
            ]
            rows.append([title, name, *numbers, row["saved_bytes"] / MIB])
            title = ""
    headers = ["layer", "way", "forward ms", "GB/s", "ratio"]
    headers += ["training ms", "GB/s", "ratio", "saved MiB"]
    formats = ("", "", *[".2f", ".1f", ".2f"] * 2, ".1f")
    text = f"GN and ReLU; median of {record['repeats']}; ratios to {REFERENCE}\n\n"
    text += tabulate(rows, headers, floatfmt=formats, missingval="-")
    if record["compile_error"]:
        text += f"\n\ntorch.compile did not work here: {record['compile_error']}"
    return text
