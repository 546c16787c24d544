"""RoIAlign (Mask R-CNN, section 3) over the levels of a pyramid, fast on a CPU both ways.

torchvision's kernels for a CPU run on one thread, and the backward computes the four weights of
each sample anew for every channel. Here the weights are a sparse matrix, made once for all
channels (:mod:`.roi_align_matrix`): forward is its product with the features, backward that of its
transpose with the gradient, and both run on all threads. docs/performance.md has what was tried.

Shapes: R RoIs, N images, C channels, H x W pixels of a level, P x P bins of a RoI.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .roi_align_matrix import SparseRows, roi_align_matrix

__all__ = ["pyramid_roi_align"]

# Rows of all channels would be copies as large as features and RoIs themselves, in float32. Those
# of 64 of 256 take a quarter of the memory and, being nearer to the cache, about half the time.
CHANNELS_AT_ONCE = 64


def pyramid_roi_align(
    features: Sequence[torch.Tensor],
    rois: torch.Tensor,
    levels: torch.Tensor,
    scales: Sequence[float],
    output_size: tuple[int, int],
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> torch.Tensor:
    """Return the mean of each bin of each RoI, for all levels of a pyramid at once, on a CPU.

    What ``torchvision.ops.roi_align`` gives level by level, by the same rules at the border. With
    coordinates in float64 and sums in float32 (float64 where the features are) it is nearer to the
    exact result than torchvision's. The same input gives the same bits, on any number of threads.

    Args:
        features: (N, C, H, W) of each level, on a CPU, with the same type, N and C.
        rois: (R, 5), R may be 0: the image's index and x0, y0, x1, y1 in pixels of the image.
        levels: (R,) int64, the index in ``features`` that a RoI is taken from.
        scales: pixels of a level for one of the image, that is 1 / stride.
        output_size: bins along y and x.
        sampling_ratio: samples of a bin along each axis; 0 for one a pixel, rounded up.
        aligned: whether pixel centers are at one half, as they should be (``ROIAlignV2``).

    Returns:
        (R, C, P, P) in the type and memory format of the features, which it can be differentiated
        by once. Nothing but RoIs and levels is kept for backward.

    Raises:
        ValueError: shapes that do not fit, a RoI of an image or a level that is not there, or
            tensors on another device.
    """
    _check(features, rois, levels, scales)
    return _PyramidRoIAlign.apply(
        rois, levels, tuple(scales), tuple(output_size), sampling_ratio, aligned, *features
    )


def _check(
    features: Sequence[torch.Tensor],
    rois: torch.Tensor,
    levels: torch.Tensor,
    scales: Sequence[float],
) -> None:
    if not features or len(features) != len(scales):
        raise ValueError(f"RoIAlign got {len(features)} feature maps and {len(scales)} scales.")
    kinds = {(*x.shape[:2], x.dtype) for x in features}
    if any(x.dim() != 4 for x in features) or len(kinds) > 1:
        shapes = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in features)
        raise ValueError(
            f"RoIAlign needs (N, C, H, W) features of one type, N and C; got {shapes}."
        )
    if {x.device.type for x in (*features, rois, levels)} != {"cpu"}:
        raise ValueError("This RoIAlign is for a CPU; on a GPU use torchvision.ops.roi_align.")
    if rois.dim() != 2 or rois.shape[1] != 5 or levels.shape != rois.shape[:1]:
        raise ValueError(
            "RoIAlign needs rois of shape (R, 5) and levels of shape (R,), got "
            f"{tuple(rois.shape)} and {tuple(levels.shape)}."
        )
    for name, index, count in (
        ("image", rois[:, 0], len(features[0])),
        ("level", levels, len(features)),
    ):
        if len(index) and not (index.min() >= 0 and index.max() < count):
            raise ValueError(
                f"A RoI is of {name} {int(index.min())} to {int(index.max())}; there are {count}."
            )


class _PyramidRoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rois: torch.Tensor,
        levels: torch.Tensor,
        scales: tuple[float, ...],
        output_size: tuple[int, int],
        sampling_ratio: int,
        aligned: bool,
        *features: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(rois, levels)
        ctx.arguments = scales, output_size, sampling_ratio, aligned
        ctx.shapes = [x.shape for x in features]
        ctx.kind = {"dtype": features[0].dtype, "memory_format": _memory_format(features[0])}
        out = torch.empty((len(rois), features[0].shape[1], *output_size), **ctx.kind)
        matrix = roi_align_matrix(rois, levels, ctx.shapes, *ctx.arguments)
        _multiply(matrix, features, [out])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grads = [torch.empty(shape, **ctx.kind) for shape in ctx.shapes]
        # made again: kept, it would be 7 MB for 1000 RoIs, and its making is a fifth of the time
        matrix = roi_align_matrix(*ctx.saved_tensors, ctx.shapes, *ctx.arguments)
        _multiply(matrix.transposed(), [grad], grads)
        return (None,) * 6 + tuple(grads)


def _memory_format(x: torch.Tensor) -> torch.memory_format:
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def _multiply(
    matrix: SparseRows, maps: Sequence[torch.Tensor], results: Sequence[torch.Tensor]
) -> None:
    """Fill ``results`` with the product of ``matrix`` and ``maps``.

    Args:
        matrix: its columns are the pixels of ``maps``, one after the other, its rows those of
            ``results``.
        maps: (N, C, H, W) of any type and memory format.
        results: likewise.
    """
    exact = torch.promote_types(maps[0].dtype, torch.float32)
    matrix = matrix._replace(weights=matrix.weights.to(exact))
    for first in range(0, maps[0].shape[1], CHANNELS_AT_ONCE):
        part = slice(first, first + CHANNELS_AT_ONCE)
        pixels = [x[:, part].permute(0, 2, 3, 1) for x in maps]
        rows = torch.empty(matrix.num_columns, pixels[0].shape[3], dtype=exact)
        for target, x in zip(rows.split([x[..., 0].numel() for x in pixels]), pixels):
            target.view(x.shape).copy_(x)
        pixels = [x[:, part].permute(0, 2, 3, 1) for x in results]
        product = matrix.times(rows).split([x[..., 0].numel() for x in pixels])
        for x, source in zip(pixels, product):
            x.copy_(source.view(x.shape))
