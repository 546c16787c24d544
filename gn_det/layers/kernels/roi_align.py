"""RoIAlign over the levels of a pyramid on a GPU: what is allocated and launched.

One kernel in each direction has all levels, in their own dtype and memory format. It needs no copy
of them, and nobody waits for it. Saved for backward are only RoIs and levels.

What it costs for 1024 RoIs of 7x7 and 256 of 14x14 on p2 to p5 of two images of 800x1333, 256
channels, is counted in docs/notes/roi_align.md.

Shapes: those of :mod:`gn_det.layers.roi_align`.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache, partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor

from .support import turn_off, why_not

__all__ = [
    "KernelError",
    "Sampling",
    "assign_levels",
    "backward",
    "forward",
    "memory_format",
    "why_not_roi_align",
]

# What can be tuned on a GPU. A program works on BX pixels of a row and CHANNELS channels, and keeps
# its sums in registers: with 128 of them for each thread, none is spilled to memory.
BX = 16
CHANNELS = 128
CHANNELS_CONTIGUOUS = 64  # in the forward, for features that are not channels_last
SUMS = 2048  # bins times channels of a program, at most
ROIS = 128  # that a program of the backward looks at at once
LAUNCH = {"num_warps": 4, "maxnreg": 128}

INT32 = 2**31


class KernelError(RuntimeError):
    """A kernel could not be compiled or launched. The kernels are off from then on."""


def why_not_roi_align(features: Sequence[torch.Tensor]) -> str:
    """Return why the kernels do not run on the levels of a pyramid; "" if they do.

    Args:
        features: The feature map of each level, of shape (N, C, H, W).
    """
    for x in features:
        if reason := why_not(x):
            return reason
        if x.numel() // len(x) >= INT32:
            return "an image has too many numbers"
    if not (_all(features, torch.contiguous_format) or _all(features, torch.channels_last)):
        return "some levels are contiguous and some channels_last"
    return ""


class Sampling(NamedTuple):
    """How RoIs are sampled: arguments of :func:`gn_det.layers.pyramid_roi_align`."""

    scales: tuple[float, ...]
    output_size: tuple[int, int]
    sampling_ratio: int
    aligned: bool


def memory_format(features: Sequence[torch.Tensor]) -> torch.memory_format:
    """Return channels_last if all levels are that and not all contiguous, else contiguous.

    Args:
        features: See :func:`why_not_roi_align`.
    """
    if _all(features, torch.contiguous_format) or not _all(features, torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def forward(
    features: Sequence[torch.Tensor], rois: torch.Tensor, levels: torch.Tensor, sampling: Sampling
) -> torch.Tensor:
    """Return the pooled features, of shape (R, C, P, P), in the features' dtype and memory format.

    RoIs of no image or level, and RoIs that are not finite, become NaN: nobody waits to check them.

    Args:
        features: The feature map of each level, of shape (N, C, H, W), on which the kernels run.
        rois: The image index and the box of each RoI, of shape (R, 5).
        levels: The level of each RoI, of shape (R,).
        sampling: How RoIs are sampled.

    Raises:
        KernelError: The kernel could not be compiled or launched.
    """
    n, c = features[0].shape[:2]
    layout = memory_format(features)
    out = torch.empty(
        (len(rois), c, *sampling.output_size),
        dtype=features[0].dtype,
        device=features[0].device,
        memory_format=layout,
    )
    constants = _constants(sampling, layout)
    most = CHANNELS if layout == torch.channels_last else CHANNELS_CONTIGUOUS
    block = min(max(_power_of_2(c), 16), most, SUMS // constants["BP"])
    grid = len(rois) * sampling.output_size[0], -(-c // block)
    args = out, _exact(rois), levels.contiguous(), tuple(features), *_sizes(features), n, c
    if len(rois):
        _launch("forward_kernel", grid, args, **constants, BC=block)
    return out


def backward(
    grad: torch.Tensor,
    rois: torch.Tensor,
    levels: torch.Tensor,
    shapes: Sequence[torch.Size],
    layout: torch.memory_format,
    sampling: Sampling,
) -> tuple[torch.Tensor, ...]:
    """Return the gradient of each level.

    Args:
        grad: The gradient of the pooled features, of shape (R, C, P, P).
        rois: See :func:`forward`.
        levels: See there.
        shapes: The shape (N, C, H, W) of each level.
        layout: The memory format of each level.
        sampling: See there.

    Raises:
        KernelError: The kernel could not be compiled or launched.
    """
    n, c = shapes[0][:2]
    empty = partial(torch.empty, dtype=grad.dtype, device=grad.device, memory_format=layout)
    grads = tuple(empty(shape) for shape in shapes)
    constants = _constants(sampling, layout)
    block = min(max(_power_of_2(c), 16), CHANNELS, SUMS // constants["BP"])
    tiles = sum(n * height * -(-width // BX) for _, _, height, width in shapes)
    grad = grad.contiguous(memory_format=layout)
    args = grads, grad, _exact(rois), levels.contiguous(), *_sizes(grads), n, len(rois), c
    constants |= {"BPY": _power_of_2(sampling.output_size[0]), "BC": block, "BR": ROIS}
    _launch("backward_kernel", (tiles, -(-c // block)), args, **constants)
    return grads


def assign_levels(
    rois: torch.Tensor, min_level: int, max_level: int, canonical_size: float, canonical_level: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the level of each RoI (equation 1 of the FPN paper), and the first RoI that is no box.

    A level is that of Detectron2's ``assign_boxes_to_levels``. Where a RoI is on the very border of
    two levels, rounding may decide otherwise.

    Args:
        rois: The image index and the box of each RoI, of shape (R, 5), on the device of features
            that the kernels run on.
        min_level: The binary logarithm of the first level's stride.
        max_level: The binary logarithm of the last level's stride.
        canonical_size: The root of the area, in pixels of the image, of a RoI that belongs to the
            canonical level.
        canonical_level: The binary logarithm of the canonical level's stride.

    Returns:
        The levels from 0, of shape (R,) and dtype int64; the index of the first RoI that is not
        finite or inside out, of shape (1,) and dtype int32, R if there is none.

    Raises:
        KernelError: The kernel could not be compiled or launched.
    """
    levels = rois.new_empty(len(rois), dtype=torch.int64)
    first_bad = rois.new_empty(1, dtype=torch.int32)
    sizes = tuple(2.0 ** (i - canonical_level) for i in range(min_level + 1, max_level + 1))
    args = levels, first_bad, _exact(rois), len(rois)
    size = float(canonical_size)
    _launch("levels_kernel", (1,), args, SIZES=sizes, CANONICAL_SIZE=size, BR=1024)
    return levels, first_bad


def _constants(sampling: Sampling, layout: torch.memory_format) -> dict[str, Any]:
    py, px = sampling.output_size
    return {
        "SCALES": sampling.scales,
        "PY": py,
        "PX": px,
        "RATIO": max(sampling.sampling_ratio, 0),
        "ALIGNED": sampling.aligned,
        "CHANNELS_LAST": layout == torch.channels_last,
        "BP": max(_power_of_2(px), 8),  # the least size of a matrix product
        "BX": BX,
    }


def _exact(rois: torch.Tensor) -> torch.Tensor:
    return (rois if rois.dtype in (torch.float32, torch.float64) else rois.float()).contiguous()


def _sizes(levels: Sequence[torch.Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(float(x.shape[2]) for x in levels), tuple(float(x.shape[3]) for x in levels)


def _all(features: Sequence[torch.Tensor], layout: torch.memory_format) -> bool:
    return all(x.is_contiguous(memory_format=layout) for x in features)


def _power_of_2(n: int) -> int:
    """Return the least power of 2 that is not below ``n``."""
    return 1 << (n - 1).bit_length()


@cache
def _kernels() -> ModuleType:
    from . import roi_align_triton  # only where there is Triton

    return roi_align_triton


def _launch(kernel: str, grid: tuple[int, ...], args: tuple[Any, ...], **constants: Any) -> None:
    """Launch a kernel on the device of its tensors; fake tensors have none."""
    x = args[1]
    if isinstance(x, FakeTensor):
        return
    try:
        with torch.cuda.device(x.device) if _is_elsewhere(x) else nullcontext():
            getattr(_kernels(), kernel)[grid](*args, **constants, **LAUNCH)
    except Exception as error:
        if "out of memory" in str(error):
            raise
        line = (str(error).strip().splitlines() or [""])[0]
        turn_off(f"{kernel} of RoIAlign failed with {type(error).__name__}: {line}")
        raise KernelError(f"The {kernel} of RoIAlign failed.") from error


def _is_elsewhere(x: torch.Tensor) -> bool:
    return x.is_cuda and x.get_device() != torch.cuda.current_device()
