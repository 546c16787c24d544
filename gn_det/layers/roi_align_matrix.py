"""RoIAlign as a sparse matrix: each bin is a weighted sum of pixels.

A bin is the mean over a grid of samples, and a sample the bilinear mean of four pixels. Both are
separable: a bin's weights are the outer product of a vector along y and one along x, in which all
that its samples want of a pixel is one number.

Shapes: R RoIs, P x P bins of a RoI, N images, C channels, H x W pixels of a level.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

__all__ = ["SparseRows", "roi_align_matrix"]


class SparseRows(NamedTuple):
    """A sparse matrix by rows (CSR).

    Attributes:
        offsets: (rows + 1,) int32, where the entries of each row begin, and the end of the last.
        columns: (entries,) int32.
        weights: (entries,).
        num_columns: of the matrix.
    """

    offsets: torch.Tensor
    columns: torch.Tensor
    weights: torch.Tensor
    num_columns: int

    def times(self, dense: torch.Tensor) -> torch.Tensor:
        """Return the product with ``dense`` (columns, C), of the weights' type, as (rows, C).

        A row is summed in the order of its entries by one thread: the result has the same bits
        each time, on any number of threads.
        """
        # bags of embeddings are such a product, the fastest one that PyTorch has on a CPU
        return F.embedding_bag(
            self.columns,
            dense,
            self.offsets,
            mode="sum",
            per_sample_weights=self.weights,
            include_last_offset=True,
        )

    def transposed(self) -> "SparseRows":
        """Return the transpose."""
        order = torch.sort(self.columns, stable=True).indices
        rows = torch.repeat_interleave(self.offsets.diff())
        counts = torch.bincount(self.columns, minlength=self.num_columns)
        return SparseRows(
            _offsets(counts),
            _take(rows, order).int(),
            _take(self.weights, order),
            len(self.offsets) - 1,
        )


def roi_align_matrix(
    rois: torch.Tensor,
    levels: torch.Tensor,
    shapes: Sequence[Sequence[int]],
    scales: Sequence[float],
    output_size: tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
) -> SparseRows:
    """Return the matrix that takes pixels to bins, with float64 weights.

    Its columns are the pixels of all levels, ordered by level, image, y, x; its rows are the bins,
    ordered by RoI, y, x. It has no entry where a weight would be 0.

    Args:
        rois: (R, 5), R may be 0: image, x0, y0, x1, y1.
        levels: (R,) int64.
        shapes: (N, C, H, W) of each level.
        scales: of each level.
        output_size: bins along y and x.
        sampling_ratio: samples of a bin along each axis; 0 for one a pixel, rounded up.
        aligned: whether pixel centers are at one half.
    """
    height, width = (torch.tensor([shape[i] for shape in shapes])[levels] for i in (2, 3))
    sizes = torch.tensor([n * h * w for n, _, h, w in shapes])
    image = (sizes.cumsum(0) - sizes)[levels] + rois[:, 0].long() * height * width

    boxes = rois[:, 1:].double() * torch.tensor(scales, dtype=torch.double)[levels, None]
    x0, y0, x1, y1 = (boxes - 0.5 if aligned else boxes).unbind(1)
    bins_y, bins_x = output_size
    ys = _axis_weights(y0, y1, height, bins_y, sampling_ratio, aligned)
    xs = _axis_weights(x0, x1, width, bins_x, sampling_ratio, aligned)

    # the outer product: each bin has a line for each of its y, each line an entry for each x
    bins = torch.arange(len(rois) * bins_y * bins_x)
    roi = bins // (bins_y * bins_x)
    y_row, x_row = bins // bins_x, roi * bins_x + bins % bins_x
    num_y, num_x = _take(ys.offsets.diff(), y_row), _take(xs.offsets.diff(), x_row)
    line_bin, y_entry = _expand(num_y, _take(ys.offsets, y_row))
    line_roi, line_x_row = _take(roi, line_bin), _take(x_row, line_bin)
    begin = _take(image, line_roi) + _take(ys.columns, y_entry) * _take(width, line_roi)
    line, x_entry = _expand(_take(num_x, line_bin), _take(xs.offsets, line_x_row))
    return SparseRows(
        _offsets(num_y * num_x),
        _take(begin.int(), line) + _take(xs.columns, x_entry),
        _take(_take(ys.weights, y_entry), line) * _take(xs.weights, x_entry),
        int(sizes.sum()),
    )


def _axis_weights(
    start: torch.Tensor,
    end: torch.Tensor,
    extent: torch.Tensor,
    bins: int,
    sampling_ratio: int,
    aligned: bool,
) -> SparseRows:
    """Return what each bin (R * bins rows) takes of each pixel along one axis.

    Args:
        start: (R,) float64, where the RoIs begin, in pixels.
        end: (R,) likewise.
        extent: (R,) pixels of the RoI's level along the axis.
        bins: of a RoI.
        sampling_ratio: see :func:`roi_align_matrix`.
        aligned: a RoI is at least one pixel long where it is not.
    """
    length = end - start if aligned else (end - start).clamp(min=1)
    step = length / bins
    # a RoI without length has no samples, and 0 in its bins
    samples = torch.full_like(extent, sampling_ratio)
    if sampling_ratio <= 0:
        samples = step.ceil().long().clamp(min=0)

    per_bin = samples.repeat_interleave(bins)
    bin_, sample = _expand(per_bin, torch.zeros_like(per_bin))
    roi = bin_ // bins
    count, last = samples[roi], extent[roi] - 1
    # in torchvision's order: for a sample right at the border it decides which side it is on
    at = start[roi] + bin_ % bins * step[roi] + (sample.double() + 0.5) * step[roi] / count
    inside = (at >= -1) & (at <= last + 1)
    at = torch.minimum(at.clamp(min=0), last)
    low = at.long()
    weights = torch.stack([1 - (at - low), at - low]) / count
    pixels = torch.stack([low, low + 1])

    # samples that want the same pixel for the same bin become one entry
    kept = inside & (weights > 0)
    width = int(extent.max()) if len(extent) else 1
    keys, entry = torch.unique((bin_ * width + pixels)[kept], return_inverse=True)
    summed = torch.zeros(len(keys), dtype=torch.double).index_add_(0, entry, weights[kept])
    counts = torch.bincount(keys // width, minlength=len(per_bin))
    return SparseRows(_offsets(counts), (keys % width).int(), summed, width)


def _offsets(counts: torch.Tensor) -> torch.Tensor:
    return F.pad(counts.cumsum(0), (1, 0)).int()


def _take(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return values.index_select(0, index)  # a quarter of the time of values[index]


def _expand(counts: torch.Tensor, starts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each index i ``counts[i]`` times, beside ``starts[i]``, ``starts[i] + 1``, ..."""
    index = torch.repeat_interleave(counts)
    return index, torch.arange(len(index)) + _take(starts + counts - counts.cumsum(0), index)
