import numpy as np
import pytest
from pycocotools import mask as mask_tools

from gn_det.data.checks.rle import run_lengths


@pytest.mark.parametrize("seed", range(30))
def test_pycocotools_writes_what_we_read(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 80, 2)
    mask = np.asfortranarray(rng.random(shape) < rng.random(), dtype=np.uint8)
    if seed % 3 == 0:  # long runs, and negative differences
        mask[:] = 0
        mask[shape[0] // 3 : shape[0] // 2 + 1, shape[1] // 3 :] = 1
    runs = run_lengths(mask_tools.encode(mask)["counts"].decode())
    np.testing.assert_array_equal(np.repeat(np.arange(len(runs)) % 2, runs), mask.ravel(order="F"))


def test_runs_longer_than_32_bits():
    assert run_lengths("o" * 6 + "0") is not None  # seven digits of 5 bits
    assert run_lengths("o" * 7 + "0") is None


@pytest.mark.parametrize(
    "counts",
    [
        None,
        5,
        b"52",
        {"a": 1},
        "\x00",
        "5\n",
        "ä",
        "P",
        "5P",
        [1, 2.0],
        [1, True],
        [-1],
        [10**30],
        [[1]],
        "@",
    ],
)
def test_malformed(counts):
    assert run_lengths(counts) is None


@pytest.mark.parametrize("counts", ["", []])
def test_no_runs(counts):
    assert run_lengths(counts).sum() == 0


def test_a_list_is_taken_as_it_is():
    assert run_lengths([3, 0, 5]).tolist() == [3, 0, 5]
