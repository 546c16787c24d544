"""RoIAlign (Mask R-CNN, section 3) over the levels of a pyramid.

On a CPU the weights of bilinear sampling are a sparse matrix that is computed once for all channels
(:mod:`.roi_align_matrix`). The forward is the product of this matrix and the features, the backward
the product of its transpose and the gradient. Both run on all threads. (torchvision's CPU kernels
run on one thread, and their backward recomputes the four weights of each sample for every channel.)

On a GPU Triton kernels compute the same weights as they need them (:mod:`.kernels.roi_align`).

Shapes:
    N: images
    R: RoIs of all images
    C: channels
    H, W: height and width of a level
    P: bins of a RoI along one side
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .kernels import roi_align as kernels
from .roi_align_matrix import SparseRows, roi_align_matrix

__all__ = ["pyramid_roi_align"]

# A product needs a float32 copy of its channels. 64 of 256 channels at once take a quarter of the
# memory of all and, as they fit the cache better, about half the time.
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
    """Return the features of RoIs from all levels of a pyramid at once.

    The result is that of ``torchvision.ops.roi_align`` level by level, with the same rules at the
    border of the image, and for boxes that are turned inside out. It is more precise than
    torchvision's, since coordinates are float64 and sums are float32 (float64 for float64
    features). The same input gives the same bits, on any number of threads, and on a GPU.

    Args:
        features: The feature map of each level, of shape (N, C, H, W). All levels have the same
            dtype, N and C. They are on a CPU, or on a GPU where
            :func:`gn_det.layers.kernels.roi_align.why_not_roi_align` has nothing against them.
        rois: The image index and the box (x0, y0, x1, y1) of each RoI, of shape (R, 5), in pixels
            of the image. R may be 0.
        levels: The index in ``features`` of each RoI's level, of shape (R,) and dtype int64.
        scales: The scale of each level relative to the image, 1 / stride.
        output_size: The number of bins along y and x.
        sampling_ratio: The number of samples of a bin along each axis; 0 for one sample per pixel,
            rounded up.
        aligned: Whether pixel centers are at 0.5 (``ROIAlignV2``) and not at 0.

    Returns:
        A tensor of shape (R, C, P, P) with the dtype and memory format of the features. It can be
        differentiated once, with respect to the features. Saved for backward are only RoIs and
        levels.

    Raises:
        ValueError: Shapes do not fit, tensors are not on one device, or the kernels do not run on
            the features. On a CPU also: a RoI belongs to no image or no level. (On a GPU its
            features are NaN.)
    """
    by_kernels = _check(features, rois, levels, scales)
    output_size = output_size[0], output_size[1]
    sampling = kernels.Sampling(tuple(scales), output_size, sampling_ratio, aligned)
    return _PyramidRoIAlign.apply(rois, levels, sampling, by_kernels, *features)


def _check(
    features: Sequence[torch.Tensor],
    rois: torch.Tensor,
    levels: torch.Tensor,
    scales: Sequence[float],
) -> bool:
    """Check the arguments, and return whether the kernels run on them."""
    if not features or len(features) != len(scales):
        raise ValueError(f"RoIAlign got {len(features)} feature maps and {len(scales)} scales.")
    kinds = {(*x.shape[:2], x.dtype) for x in features}
    if any(x.dim() != 4 for x in features) or len(kinds) > 1:
        shapes = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in features)
        raise ValueError(
            "RoIAlign needs features of shape (N, C, H, W) with the same dtype, N and C; got "
            f"{shapes}."
        )
    devices = {str(x.device) for x in (*features, rois, levels)}
    if len(devices) > 1:
        raise ValueError(f"RoIAlign got tensors on several devices: {', '.join(sorted(devices))}.")
    reason = kernels.why_not_roi_align(features)
    if reason and devices != {"cpu"}:
        raise ValueError(
            f"The GPU kernels of RoIAlign do not run here: {reason}. Use torchvision.ops.roi_align."
        )
    if rois.dim() != 2 or rois.shape[1] != 5 or levels.shape != rois.shape[:1]:
        raise ValueError(
            "RoIAlign needs rois of shape (R, 5) and levels of shape (R,), got "
            f"{tuple(rois.shape)} and {tuple(levels.shape)}."
        )
    if devices != {"cpu"}:
        return True  # to look at values is to wait for the GPU
    for name, index, count in (
        ("image", rois[:, 0], len(features[0])),
        ("level", levels, len(features)),
    ):
        if len(index) and not (index.min() >= 0 and index.max() < count):
            raise ValueError(
                f"RoIs are of {name} {index.min().item():g} to {index.max().item():g}; there are "
                f"{count}."
            )
    return not reason


class _PyramidRoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rois: torch.Tensor,
        levels: torch.Tensor,
        sampling: kernels.Sampling,
        by_kernels: bool,
        *features: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(rois, levels)
        ctx.sampling, ctx.shapes = sampling, [x.shape for x in features]
        ctx.layout, ctx.by_kernels = kernels.memory_format(features), by_kernels
        if by_kernels:
            try:
                return kernels.forward(features, rois, levels, sampling)
            except kernels.KernelError:
                ctx.by_kernels = False  # the kernels are off: this once the matrix is for a GPU
        shape = len(rois), features[0].shape[1], *sampling.output_size
        out = torch.empty(shape, dtype=features[0].dtype, memory_format=ctx.layout)
        matrix = roi_align_matrix(rois.cpu(), levels.cpu(), ctx.shapes, *sampling)
        _multiply(matrix, [x.cpu() for x in features], [out])
        return out.to(features[0].device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rois, levels = ctx.saved_tensors
        if ctx.by_kernels:
            try:
                args = grad, rois, levels, ctx.shapes, ctx.layout, ctx.sampling
                return None, None, None, None, *kernels.backward(*args)
            except kernels.KernelError:
                pass
        parts = [
            torch.empty(shape, dtype=grad.dtype, memory_format=ctx.layout) for shape in ctx.shapes
        ]
        # recomputed: it would take 7 MB for 1000 RoIs, and computing it is a fifth of the time
        matrix = roi_align_matrix(rois.cpu(), levels.cpu(), ctx.shapes, *ctx.sampling)
        _multiply(matrix.transposed(), [grad.cpu()], parts)
        return None, None, None, None, *(x.to(grad.device) for x in parts)


def _multiply(
    matrix: SparseRows, maps: Sequence[torch.Tensor], results: Sequence[torch.Tensor]
) -> None:
    """Fill ``results`` with the product of ``matrix`` and ``maps``.

    Args:
        matrix: The matrix. Its columns are the pixels of all ``maps`` in their order, its rows the
            pixels of all ``results``.
        maps: The input tensors of shape (N, C, H, W), of any dtype and memory format.
        results: The output tensors of shape (N, C, H, W), of any dtype and memory format.
    """
    compute_dtype = torch.promote_types(maps[0].dtype, torch.float32)
    matrix = matrix._replace(weights=matrix.weights.to(compute_dtype))
    for first in range(0, maps[0].shape[1], CHANNELS_AT_ONCE):
        part = slice(first, first + CHANNELS_AT_ONCE)
        pixels = [x[:, part].permute(0, 2, 3, 1) for x in maps]
        rows = torch.empty(matrix.num_columns, pixels[0].shape[3], dtype=compute_dtype)
        for target, x in zip(rows.split([x[..., 0].numel() for x in pixels]), pixels):
            target.view(x.shape).copy_(x)
        pixels = [x[:, part].permute(0, 2, 3, 1) for x in results]
        product = matrix.times(rows).split([x[..., 0].numel() for x in pixels])
        for x, source in zip(pixels, product):
            x.copy_(source.view(x.shape))
