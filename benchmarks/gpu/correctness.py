"""Each way to compute a norm beside float64: values, gradients, dtype and memory format.

An error is the largest difference over the largest entry. For the gradients of the input it is the
norm of the difference over the norm, as single entries differ where ReLU's input is nearly 0.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import nn

from gn_det.layers import GroupNorm, kernels
from gn_det.layers.fp32_stats import group_norm_fp32_stats
from gn_det.layers.group_norm import group_norm

from .device import DEVICE
from .session import Section

__all__ = ["VALUES", "WAYS", "compare", "measure"]

GROUPS = 32
# that of several tiles a group, of one tile, of many channels, and an empty one
SHAPES = [(2, 64, 40, 66), (5, 256, 7, 7), (2, 2048, 3, 5), (0, 64, 7, 7)]
DRY_SHAPES = [(2, 64, 5, 6), (0, 64, 7, 7)]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
MEANS = (0.0, 30.0, 1e4)
LEAST = 3.0  # seconds for a case
VALUES = ("y", "dx", "dweight", "dbias")
FUSED = ((False, False), (True, False), (True, True))  # ReLU, residual


def _finish(y: torch.Tensor, relu: bool, residual: torch.Tensor | None) -> torch.Tensor:
    y = y if residual is None else y + residual
    return F.relu(y) if relu else y


# each takes the input, the norm, whether ReLU follows, and the residual or None
def _kernels(x, norm, relu, residual):
    return kernels.group_norm(
        x, GROUPS, norm.weight, norm.bias, norm.eps, relu=relu, residual=residual
    )[0]


def _pytorch(x, norm, relu, residual):
    with torch.autocast(x.device.type, x.dtype, enabled=x.dtype in (torch.bfloat16, torch.float16)):
        return _finish(nn.GroupNorm.forward(norm, x), relu, residual)


def _fp32_stats(x, norm, relu, residual):
    y = group_norm_fp32_stats(x, GROUPS, norm.weight, norm.bias, norm.eps)
    return _finish(y, relu, residual)


def _layer(x, norm, relu, residual):
    return group_norm(x, GROUPS, norm.weight, norm.bias, norm.eps, relu=relu, residual=residual)


WAYS = {"kernels": _kernels, "layer": _layer, "fp32 statistics": _fp32_stats, "PyTorch": _pytorch}


def measure(section: Section) -> None:
    """Add a row for each way: the errors of all cases, and the worst of each dtype and mean."""
    shapes = DRY_SHAPES if section.dry else SHAPES
    for way in filter(lambda way: section.has_time(way, LEAST), WAYS):
        with section.row(way) as row:
            cases = row["cases"] = {}
            for shape, dtype, layout, mean, fused in product(shapes, DTYPES, LAYOUTS, MEANS, FUSED):
                if mean > 100 and dtype != torch.float32:
                    continue  # the deviation, 1, would be less than a bit
                if DEVICE == "cpu" and way == "PyTorch" and dtype == torch.float16:
                    continue  # a CPU has no such autocast in older versions
                kind = f"{shape} {_short(dtype)}"
                x = torch.empty(shape, dtype=dtype, device=DEVICE)
                if way == "kernels" and (why := kernels.why_not(x)):
                    row.setdefault("not run", {})[kind] = why
                elif section.left() < LEAST:  # a kernel that is new takes seconds to compile
                    row.setdefault("not run", {})[kind] = "there was no time left"
                else:
                    name = f"{kind} {layout} mean {mean:g}{' ReLU' * fused[0]}"
                    name += " residual" * fused[1]
                    with section.guard(f"{way} {name}"):
                        cases[name] = compare(way, shape, dtype, layout, mean, *fused)
            row["worst"] = _worst(cases)


def compare(
    way: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    layout: str,
    mean: float = 0.0,
    relu: bool = False,
    residual: bool = False,
) -> dict[str, float | bool]:
    """Return the errors of ``y``, ``dx``, ``dweight`` and ``dbias`` beside float64.

    Args:
        way: The way, a key of :data:`WAYS`.
        shape: The shape (N, C, H, W) of the input.
        dtype: The dtype of the input; weights are float32.
        layout: The memory format of the input, a key of :data:`LAYOUTS`.
        mean: The mean of the input, whose standard deviation is 1 before it is rounded.
        relu: Whether ReLU follows.
        residual: Whether a residual is added before.

    Returns:
        The errors, and whether dtype and memory format are those of the input (``"kept"``).
    """
    rng = torch.Generator(DEVICE).manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=rng, device=DEVICE)

    def arrange(x: torch.Tensor) -> torch.Tensor:
        return x.to(dtype).contiguous(memory_format=LAYOUTS[layout])

    channels = shape[1]
    norm = GroupNorm(channels, GROUPS).to(DEVICE)
    norm.weight.data, norm.bias.data = random(channels), random(channels)
    x = arrange(random(*shape) + mean).requires_grad_()
    dy = arrange(random(*shape))
    added = arrange(random(*shape)) if residual else None

    y = WAYS[way](x, norm, relu, added)
    inputs = [x, norm.weight, norm.bias]
    grads = torch.autograd.grad(y, inputs, dy.to(y.dtype))

    wide = [t.detach().double().contiguous().requires_grad_() for t in inputs]
    z = F.group_norm(wide[0], GROUPS, *wide[1:], norm.eps) if x.numel() else wide[0] * 1
    expected = _finish(z, relu, None if added is None else added.double())
    if x.numel():
        references = torch.autograd.grad(expected, wide, dy.double())
    else:
        references = [torch.zeros_like(t) for t in wide]

    kept = y.dtype == dtype
    if x.numel():
        kept = kept and y.is_contiguous(memory_format=LAYOUTS[layout])
    return {
        "y": _error(y, expected, torch.inf),
        "dx": _error(grads[0], references[0], 2),
        "dweight": _error(grads[1], references[1], torch.inf),
        "dbias": _error(grads[2], references[2], torch.inf),
        "kept": kept,
    }


def _error(x: torch.Tensor, reference: torch.Tensor, order: float) -> float:
    if not reference.numel():
        return 0.0
    size = torch.linalg.vector_norm(reference, order)
    error = torch.linalg.vector_norm(x.detach().double() - reference, order)
    return (error / size.clamp(min=1e-30)).item()


def _worst(cases: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Return the largest error of each value, by dtype and mean."""
    worst: dict[str, dict[str, float]] = {}
    for name, case in cases.items():
        words = name.partition(") ")[2].split()  # dtype, layout, "mean", mean
        row = worst.setdefault(f"{words[0]} mean {words[3]}", {})
        for value in VALUES:
            row[value] = max(row.get(value, 0.0), case[value])
    return worst


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
