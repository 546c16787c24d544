import torch
from torchvision.ops import roi_align

from gn_det.layers.roi_align_matrix import SparseRows, roi_align_matrix

ROIS = torch.tensor([[1, 2, 3, 17, 14.5], [0, -4, -4, 5, 6], [0, 6, 1, 6, 9], [1, 0, 0, 20, 16]])


def _dense(matrix):
    dense = torch.zeros(len(matrix.offsets) - 1, matrix.num_columns, dtype=torch.float64)
    for row, (first, end) in enumerate(zip(matrix.offsets.tolist(), matrix.offsets.tolist()[1:])):
        columns = matrix.columns[first:end].tolist()
        assert len(columns) == len(set(columns))  # one entry for all that a bin wants of a pixel
        dense[row, columns] = matrix.weights[first:end]
    return dense


def _matrix(output_size=(3, 2), sampling_ratio=0, aligned=True):
    levels = torch.tensor([0, 1, 0, 1])
    shapes = [(2, 9, 8, 10), (2, 9, 4, 5)]
    return roi_align_matrix(ROIS, levels, shapes, (0.5, 0.25), output_size, sampling_ratio, aligned)


def test_rows_are_bins_and_columns_pixels_of_all_levels():
    matrix = _matrix()
    assert matrix.num_columns == 2 * 8 * 10 + 2 * 4 * 5
    assert (matrix.weights > 0).all()
    dense = _dense(matrix).view(4, 6, -1)
    # each pixel of a level as a channel of its own
    for roi, scale, first, shape in ((0, 0.5, 80, (8, 10)), (3, 0.25, 180, (4, 5))):
        pixels = shape[0] * shape[1]
        images = torch.eye(pixels, dtype=torch.float64).view(1, pixels, *shape)
        box = torch.cat([torch.zeros(1), ROIS[roi, 1:]])[None].double()
        wanted = roi_align(images, box, (3, 2), scale, 0, True)[0].flatten(1).T
        torch.testing.assert_close(dense[roi, :, first : first + pixels], wanted)
        dense[roi, :, first : first + pixels] = 0
        assert not dense[roi].any()


def test_weights_of_a_bin_sum_to_its_samples_that_are_inside():
    inside, partly, without_width, whole = _dense(_matrix()).view(4, 6, -1).sum(dim=2)
    assert torch.allclose(inside, torch.ones(6, dtype=torch.float64))
    assert torch.allclose(whole, torch.ones(6, dtype=torch.float64))
    assert partly.min() < partly.max() == 1
    assert not without_width.any()


def test_few_samples_of_large_bins_make_few_entries():
    # each of the 2 x 2 samples wants 2 x 2 pixels, and no two of them the same
    rois = torch.tensor([[0, 0.3, 0.3, 64.3, 64.3]])
    level = torch.tensor([0])
    matrix = roi_align_matrix(rois, level, [(1, 1, 64, 64)], (1.0,), (1, 1), 2, True)
    assert len(matrix.weights) == 16


def test_times_and_transposed():
    matrix = _matrix(output_size=(7, 7))
    dense = _dense(matrix)
    other = torch.randn(matrix.num_columns, 5, dtype=torch.float64)
    torch.testing.assert_close(matrix.times(other), dense @ other)
    transposed = matrix.transposed()
    assert torch.equal(_dense(transposed), dense.T)
    other = torch.randn(len(dense), 5, dtype=torch.float64)
    torch.testing.assert_close(transposed.times(other), dense.T @ other)
    assert torch.equal(_dense(transposed.transposed()), dense)


def test_transposed_keeps_the_order_of_rows():
    """The order of a sum decides its last bit: it must not depend on the sort."""
    columns = torch.tensor([1, 0, 1, 1, 0], dtype=torch.int32)
    offsets = torch.tensor([0, 2, 3, 5], dtype=torch.int32)
    transposed = SparseRows(offsets, columns, torch.arange(5.0), 3).transposed()
    assert transposed.offsets.tolist() == [0, 2, 5, 5]
    assert transposed.columns.tolist() == [0, 2, 0, 1, 2]
    assert transposed.weights.tolist() == [1, 4, 0, 2, 3]
    assert transposed.num_columns == 3


def test_no_rois():
    none = torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)
    matrix = roi_align_matrix(*none, [(2, 3, 4, 5)], (1.0,), (7, 7), 0, True)
    assert matrix.times(torch.zeros(40, 3, dtype=torch.float64)).shape == (0, 3)
    zeros = matrix.transposed().times(torch.zeros(0, 3, dtype=torch.float64))
    assert torch.equal(zeros, torch.zeros(40, 3, dtype=torch.float64))
