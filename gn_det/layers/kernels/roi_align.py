"""RoIAlign over the levels of a pyramid on a GPU: what is allocated and launched.

One kernel in each direction has all levels, in their own dtype and memory format. It needs no copy
of them, and nobody waits for it. Saved for backward are only RoIs and levels.

What it costs for 1024 RoIs of 7x7 and 256 of 14x14 on p2 to p5 of two images of 800x1333, 256
channels, is counted in docs/notes/roi_align.md.

Shapes: those of :mod:`gn_det.layers.roi_align`.
"""

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from .launch import KernelError, launch, power_of_2
from .support import why_not

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
ROIS_OF_LEVELS = 1024  # of the one program that finds levels
LAUNCH = {"num_warps": 4, "maxnreg": 128}

INT32 = 2**31
MODULE = "roi_align_triton"

_compiled: dict[Hashable, Any] = {}


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
    bins = _bins(sampling)
    most = CHANNELS if layout == torch.channels_last else CHANNELS_CONTIGUOUS
    block = min(max(power_of_2(c), 16), most, SUMS // bins)
    grid = len(rois) * sampling.output_size[0], -(-c // block), 1
    tensors = out, _exact(rois), levels.contiguous(), tuple(features)
    constants = *_constants(sampling, layout), bins, BX, block
    if len(rois):
        _launch("forward_kernel", grid, tensors, (*_sizes(features), n), (c, *constants))
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
    bins = _bins(sampling)
    block = min(max(power_of_2(c), 16), CHANNELS, SUMS // bins)
    tiles = sum(n * height * -(-width // BX) for _, _, height, width in shapes)
    grid = tiles, -(-c // block), 1
    grad = grad.contiguous(memory_format=layout)
    tensors = grad, _exact(rois), levels.contiguous(), grads
    rows = power_of_2(sampling.output_size[0])
    constants = *_constants(sampling, layout), rows, bins, BX, block, ROIS
    _launch("backward_kernel", grid, tensors, (*_sizes(grads), n, len(rois)), (c, *constants))
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
    tensors = levels, first_bad, _exact(rois)
    constants = sizes, float(canonical_size), ROIS_OF_LEVELS
    _launch("levels_kernel", (1, 1, 1), tensors, (len(rois),), constants)
    return levels, first_bad


def _constants(sampling: Sampling, layout: torch.memory_format) -> tuple[Any, ...]:
    ratio = max(sampling.sampling_ratio, 0)
    channels_last = layout == torch.channels_last
    return sampling.scales, *sampling.output_size, ratio, sampling.aligned, channels_last


def _bins(sampling: Sampling) -> int:
    """Return the number of bins along x, padded to the least size of a matrix product."""
    return max(power_of_2(sampling.output_size[1]), 8)


def _exact(rois: torch.Tensor) -> torch.Tensor:
    return (rois if rois.dtype in (torch.float32, torch.float64) else rois.float()).contiguous()


def _sizes(levels: Sequence[torch.Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(float(x.shape[2]) for x in levels), tuple(float(x.shape[3]) for x in levels)


def _all(features: Sequence[torch.Tensor], layout: torch.memory_format) -> bool:
    return all(x.is_contiguous(memory_format=layout) for x in features)


def _launch(
    kernel: str,
    grid: tuple[int, int, int],
    tensors: tuple[Any, ...],
    changing: tuple[Any, ...],
    constants: tuple[Any, ...],
) -> None:
    """Launch a kernel. Its arguments are in its order; ``changing`` ones compile nothing anew."""
    numbers = *changing, *constants
    key = tensors[1].device, constants
    launch(MODULE, kernel, grid, tensors, numbers, _compiled, key, **LAUNCH)
