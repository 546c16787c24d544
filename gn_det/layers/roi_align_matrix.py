"""RoIAlign as a sparse matrix: each bin is a weighted sum of pixels.

A bin is the mean over a grid of samples, and a sample is the bilinear mean of four pixels. Both are
separable: the weights of a bin are the outer product of a vector along y and a vector along x. Each
vector holds one number per pixel, the sum over the samples of the bin.

Shapes:
    N: images
    R: RoIs of all images
    C: channels
    H, W: height and width of a level
    P: bins of a RoI along one side
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

__all__ = ["SparseRows", "roi_align_matrix"]


class SparseRows(NamedTuple):
    """A sparse matrix in CSR format.

    Attributes:
        offsets: The index of the first entry of each row, and the number of entries at the end, of
            shape (rows + 1,) and dtype int32.
        columns: The column of each entry, of shape (entries,) and dtype int32.
        weights: The value of each entry, of shape (entries,).
        num_columns: The number of columns of the matrix.
    """

    offsets: torch.Tensor
    columns: torch.Tensor
    weights: torch.Tensor
    num_columns: int

    def times(self, dense: torch.Tensor) -> torch.Tensor:
        """Return the product with a dense matrix, of shape (rows, C).

        One thread sums a row in the order of its entries: the result has the same bits each time,
        on any number of threads.

        Args:
            dense: The dense matrix of shape (columns, C), with the dtype of the weights.
        """
        # an embedding bag is a sparse product, and the fastest that PyTorch has on a CPU
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
    """Return the matrix that maps pixels to bins, with float64 weights.

    Its columns are the pixels of all levels, ordered by level, image, y, x. Its rows are the bins,
    ordered by RoI, y, x. It has no entry with weight 0.

    Args:
        rois: See :func:`gn_det.layers.pyramid_roi_align`.
        levels: See there.
        shapes: The shape (N, C, H, W) of each level.
        scales: See there.
        output_size: See there.
        sampling_ratio: See there.
        aligned: See there.
    """
    height, width = (torch.tensor([shape[i] for shape in shapes])[levels] for i in (2, 3))
    sizes = torch.tensor([n * h * w for n, _, h, w in shapes])
    image = (sizes.cumsum(0) - sizes)[levels] + rois[:, 0].long() * height * width

    boxes = rois[:, 1:].double() * torch.tensor(scales, dtype=torch.double)[levels, None]
    x0, y0, x1, y1 = (boxes - 0.5 if aligned else boxes).unbind(1)
    bins_y, bins_x = output_size
    ys = _axis_weights(y0, y1, height, bins_y, sampling_ratio, aligned)
    xs = _axis_weights(x0, x1, width, bins_x, sampling_ratio, aligned)

    # the outer product: a bin has a line for each of its y, and a line has an entry for each x
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
    """Return the weights of the pixels along one axis, with one row for each bin of each RoI.

    Args:
        start: The start of each RoI in pixels of its level, of shape (R,) and dtype float64.
        end: The end of each RoI in pixels of its level, of shape (R,) and dtype float64.
        extent: The number of pixels of each RoI's level along the axis, of shape (R,).
        bins: The number of bins of a RoI along the axis.
        sampling_ratio: The number of samples of a bin; 0 for one sample per pixel, rounded up.
        aligned: Whether pixel centers are at 0.5. If not, a RoI is at least one pixel long.
    """
    length = end - start if aligned else (end - start).clamp(min=1)
    step = length / bins
    # a RoI of length 0 has no samples, and its bins are 0
    samples = torch.full_like(extent, sampling_ratio)
    if sampling_ratio <= 0:
        samples = step.ceil().long().clamp(min=0)

    per_bin = samples.repeat_interleave(bins)
    bin_, sample = _expand(per_bin, torch.zeros_like(per_bin))
    roi = bin_ // bins
    count, last = samples[roi], extent[roi] - 1
    # the order of torchvision's operations: rounding decides about a sample right at the border
    at = start[roi] + bin_ % bins * step[roi] + (sample.double() + 0.5) * step[roi] / count
    inside = (at >= -1) & (at <= last + 1)
    at = torch.minimum(at.clamp(min=0), last)
    low = at.long()
    weights = torch.stack([1 - (at - low), at - low]) / count
    pixels = torch.stack([low, low + 1])

    # samples of a bin that need the same pixel are merged into one entry
    kept = inside & (weights > 0)
    width = int(extent.max()) if len(extent) else 1
    keys, entry = torch.unique((bin_ * width + pixels)[kept], return_inverse=True)
    summed = torch.zeros(len(keys), dtype=torch.double).index_add_(0, entry, weights[kept])
    counts = torch.bincount(keys // width, minlength=len(per_bin))
    return SparseRows(_offsets(counts), (keys % width).int(), summed, width)


def _offsets(counts: torch.Tensor) -> torch.Tensor:
    return F.pad(counts.cumsum(0), (1, 0)).int()


def _take(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return values.index_select(0, index)  # four times as fast as values[index]


def _expand(counts: torch.Tensor, starts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each index i ``counts[i]`` times, and with it ``starts[i]``, ``starts[i] + 1``, ..."""
    index = torch.repeat_interleave(counts)
    return index, torch.arange(len(index)) + _take(starts + counts - counts.cumsum(0), index)
