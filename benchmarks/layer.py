"""One GN with ReLU, alone: time, GB/s and bytes saved, in each type and layout.

The shapes are those of R50-FPN with box and mask head. Each repeat runs every way once, in turn, on
the same numbers. GB/s counts each tensor once: input and output forward, and in training also the
output's gradient, the input again and its gradient. What a kernel reads twice makes it lower.

Shapes: N images, R RoIs, C channels, H x W pixels.
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

from .options import add_numbers
from .records import MIB
from .timing import interleave, seconds_of, summary

__all__ = ["WAYS", "Way", "add_arguments", "layer_shapes", "measure", "run", "table"]

REFERENCE = "stock-fp32"


@dataclass(frozen=True)
class Way:
    """A way to compute ``relu(group_norm(x))``.

    Attributes:
        source: ``stock``: PyTorch's operator, under its autocast where the precision is bf16;
            ``gn_det``: :class:`gn_det.layers.GroupNorm`, likewise; ``compiled``: both operations
            as one by ``torch.compile``, for dynamic sizes.
        precision: of the input, ``fp32`` or ``bf16``. Weights are fp32.
        channels_last: the input's layout.
    """

    source: str
    precision: str
    channels_last: bool = False

    @property
    def name(self) -> str:
        """``SOURCE-PRECISION``, and ``-channels_last`` where it is."""
        return f"{self.source}-{self.precision}" + "-channels_last" * self.channels_last

    def arrange(self, x: torch.Tensor) -> torch.Tensor:
        """Return a copy of ``x`` in this way's type and layout."""
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
        "images": (2, "in the batch"),
        "height": (480, "of an image, in pixels"),
        "width": (640, "of an image, in pixels"),
        "rois": (1024, "in the batch; a quarter of them has a mask"),
        "repeats": (5, "timed runs of each"),
        "warmup": (1, "runs of each before"),
    }
    add_numbers(parser, numbers)
    parser.add_argument(
        "--no-compile", action="store_true", help="leave out torch.compile, which takes minutes"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every way on every shape; see :func:`measure`, and :func:`table`."""
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
        images: N.
        height: of an image in pixels, like ``width`` a multiple of 32.
        width: see ``height``.
        rois: R, of which a quarter has a mask.
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
    """Return for each way, by name, what it costs on an input of ``shape``.

    Args:
        shape: (N, C, H, W).
        ways: run in turn.
        repeats: timed runs of each, forward alone and forward with backward.
        warmup: runs before.
    """
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(shape, device=device)
    norm = GroupNorm(shape[1]).to(device)
    layers = {way.name: _Layer(way, norm, x) for way in ways}
    seconds = {
        "forward": interleave({n: layer.forward for n, layer in layers.items()}, repeats, warmup),
        "training": interleave({n: layer.train for n, layer in layers.items()}, repeats, warmup),
    }
    rows = {}
    for name, layer in layers.items():
        rows[name] = row = {"saved_bytes": layer.saved_bytes()}
        for kind, nbytes in layer.least_bytes().items():
            row[kind] = summary(seconds[kind][name])
            row[kind]["gb_per_second"] = nbytes / row[kind]["seconds"] / 1e9
            if REFERENCE in layers:
                reference = summary(seconds[kind][REFERENCE])["seconds"]
                row[kind]["ratio"] = row[kind]["seconds"] / reference
    return {"shape": list(shape), "ways": rows}


class _Layer:
    """A way on one input, with and without backward."""

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
        """Run it forward and backward."""
        torch.autograd.grad(self._run(), self.inputs, self.dy)

    def saved_bytes(self) -> int:
        """Return the bytes of distinct storages kept for backward, parameters left out."""
        kept = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = self._run()
        for parameter in self.inputs[1:]:
            kept.pop(parameter.untyped_storage().data_ptr(), None)
        del y
        return sum(kept.values())

    def least_bytes(self) -> dict[str, int]:
        """Return the bytes that have to be moved: each tensor once."""
        x, y = (t.numel() * t.element_size() for t in (self.x, self.dy))
        return {"forward": x + y, "training": x + y + (y + x + x)}


def _function(way: Way, norm: GroupNorm) -> Callable[[torch.Tensor], torch.Tensor]:
    if way.source == "compiled":
        # the compiler keeps its graphs by function: one for each type, layout and width
        compiled = torch.compile(_norm_relu, dynamic=True)
        return partial(compiled, weight=norm.weight, bias=norm.bias)
    forward = norm if way.source == "gn_det" else partial(nn.GroupNorm.forward, norm)
    return lambda x: F.relu_(forward(x))


def _norm_relu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Compute what :class:`GroupNorm` is for the compiler, and ReLU."""
    return F.relu(F.group_norm(x.to(weight.dtype).contiguous(), 32, weight, bias).to(x.dtype))


def _try_to_compile() -> tuple[str | None, float | None]:
    """Return why torch.compile does not work here, or None and the seconds that it took."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    norm = GroupNorm(64).to(device)
    # beyond this many graphs the function would run as it is, without a word in the table
    limit = "recompile_limit" if hasattr(dynamo.config, "recompile_limit") else "cache_size_limit"
    setattr(dynamo.config, limit, 256)
    try:
        layer = _Layer(Way("compiled", "fp32"), norm, torch.randn(2, 64, 6, 10, device=device))
        return None, seconds_of(layer.train)
    except Exception as error:  # no C++ compiler, no Triton, a Python that is too new
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}", None


def table(record: dict[str, Any]) -> str:
    """Return layers and ways as rows. Ratios are to PyTorch's operator in fp32, contiguous."""
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
