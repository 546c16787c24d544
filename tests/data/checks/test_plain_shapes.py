"""Other forms of boxes and masks: those that are clear are read, others are not guessed."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_tools

from gn_det.data.checks.plain_shapes import read_box, read_mask
from gn_det.data.checks.records import mask_extent, mask_problems

SIZE = (64, 48)
BOX = [10, 10, 20, 10]
SQUARE = [10, 10, 30, 10, 30, 20, 10, 20]
POINTS = [[10, 10], [30, 10], [30, 20], [10, 20]]


@pytest.mark.parametrize(
    "value",
    [
        [10, 10, 20, 10],
        ["10", "10", "20.0", " 10 "],
        "10, 10, 20, 10",
        "10 10 20 10",
        "[10, 10, 20, 10]",
        '["10", 10, 20, 10]',
        [[10, 10, 20, 10]],
        {"x": 10, "y": 10, "width": 20, "height": 10},
        {"x": "10", "y": 10, "w": 20, "h": 10},
        {"left": 10, "top": 10, "width": 20, "height": 10},
        {"xmin": 10, "ymin": 10, "xmax": 30, "ymax": 20},
        {"x1": 10, "y1": 10, "x2": 30, "y2": 20},
        [[10, 10], [30, 20]],
        [{"x": 10, "y": 10}, {"x": 30, "y": 20}],
        '{"xmin": 10, "ymin": 10, "xmax": 30, "ymax": 20}',
    ],
)
def test_boxes(value):
    assert read_box(value) == [10, 10, 20, 10]


@pytest.mark.parametrize(
    "value",
    [
        *(None, 7, "", "a b c d", "1 2 3", "1.2.3 4 5 6", [], [1, 2, 3], [1, 2, 3, 4, 5], {}),
        *([1, 2, None, 4], [True, 1, 2, 3], {"x": 1, "y": 2}, [[1, 2], [3]], "{", "[[[["),
    ],
)
def test_what_is_no_box(value):
    assert read_box(value) is None


@pytest.mark.parametrize(
    "value",
    [
        [SQUARE],
        SQUARE,
        POINTS,
        [POINTS],
        [[POINTS]],
        [[[*map(str, point)] for point in POINTS]],
        [[*map(str, SQUARE)]],
        [{"x": x, "y": y} for x, y in POINTS],
        [[{"x": x, "y": y} for x, y in POINTS]],
        {"x": SQUARE[::2], "y": SQUARE[1::2]},
        {"all_points_x": SQUARE[::2], "all_points_y": SQUARE[1::2]},
        [{"x": SQUARE[::2], "y": SQUARE[1::2]}],
        {"points": POINTS},
        {"x": 10, "y": 10, "width": 20, "height": 10},
        json.dumps([SQUARE]),
        json.dumps(POINTS),
        "10,10 30,10 30,20 10,20",
        "10,10;30,10;30,20;10,20",
        [[10, 10, 30, 20]],  # two corners
        [[[10, 10], [30, 20]]],
        [[10, 10], [30, 20]],
        [[10, 10, 20, 10]],  # x, y, width, height
        [[v / SIZE[i % 2] for i, v in enumerate(SQUARE)]],
        [SQUARE, [1, 2, 3], [5, 5]],  # what is no polygon is left out
    ],
)
def test_polygons(value):
    mask = read_mask(value, SIZE, BOX)
    np.testing.assert_allclose(mask, [SQUARE])
    assert all(isinstance(v, int | float) for v in mask[0])


@pytest.mark.parametrize(
    "value",
    [
        [[*SQUARE, 10, 10]],
        [[*POINTS, POINTS[0]]],
        [[10, 10, *SQUARE]],
    ],
)
def test_closed_polygons_and_double_points_stay(value):
    (mask,) = read_mask(value, SIZE, BOX)
    assert len(mask) == 10
    assert mask_extent([mask]) == (10, 10, 30, 20)


def test_several_polygons():
    other = [[40, 30], [60, 30], [60, 40]]
    flat = [v for point in other for v in point]
    assert read_mask([POINTS, other], SIZE, BOX) == [SQUARE, flat]
    assert read_mask([SQUARE, other], SIZE, BOX) == [SQUARE, flat]
    assert read_mask([{"x": [40, 60, 60], "y": [30, 30, 40]}, SQUARE], SIZE, None) == [flat, SQUARE]


@pytest.mark.parametrize(
    "value",
    [
        *("rle", 3.5, None, {}, [[]], [[1, 2]], [[1, 2, 3]], [[1, 2, None, 4, 5, 6]]),
        [[500, 500, 600, 500, 600, 600]],
        [[float("nan"), *SQUARE[1:]]],
        [[40, 30, 60, 45]],  # two points of which the box knows nothing
        [[10, 10], [30, 20], [10, 10]][:1],
    ],
)
def test_what_is_no_mask(value):
    assert read_mask(value, SIZE, BOX) is None


def test_two_corners_without_a_box():
    assert read_mask([[10, 10, 30, 20]], SIZE, None) == [SQUARE]


@pytest.fixture
def rle():
    """An RLE that has runs of all lengths, so that its text has a backslash."""
    pixels = np.zeros((48, 64), np.uint8, order="F")
    pixels[10:20, 10:30] = 1
    pixels[15, 12] = 0
    for height in range(10, 48):
        counts = mask_tools.encode(pixels)["counts"].decode()
        if "\\" in counts:
            break
        pixels[height, 10:30:3] = 1
    assert "\\" in counts
    return {"size": [48, 64], "counts": counts}


def runs_of(rle):
    from gn_det.data.checks.rle import run_lengths

    return run_lengths(rle["counts"]).tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r,
        lambda r: {**r, "counts": str(r["counts"].encode())},  # b'...'
        lambda r: {**r, "counts": repr(r["counts"].encode()).replace("b'", 'b"')[:-1] + '"'},
        lambda r: {**r, "counts": r["counts"].replace("\\", "\\\\")},
        lambda r: {**r, "counts": list(r["counts"].encode())},
        lambda r: {**r, "counts": runs_of(r)},
        lambda r: {**r, "counts": [float(v) for v in runs_of(r)]},
        lambda r: {**r, "counts": [*map(str, runs_of(r))]},
        lambda r: {**r, "size": ["48", 64.0]},
        lambda r: [r],
        json.dumps,
        lambda r: {"counts": r["counts"]},
        lambda r: {**r, "size": [64, 48]},
    ],
)
def test_run_lengths(rle, change):
    left, top, right, bottom = mask_extent(rle)
    mask = read_mask(change(rle), SIZE, [left, top, right - left, bottom - top])
    assert mask["size"] == [48, 64]
    assert runs_of(mask) == runs_of(rle)
    assert not mask_problems(mask, SIZE)


def test_rows_and_columns_are_swapped_where_the_box_shows_it():
    pixels = np.zeros((48, 64), np.uint8, order="F")
    pixels[10:20, 10:40] = 1
    turned = mask_tools.encode(np.asfortranarray(pixels.T))
    turned = {"size": turned["size"], "counts": turned["counts"].decode()}
    assert turned["size"] == [64, 48]
    mask = read_mask(turned, SIZE, [10, 10, 30, 10])
    np.testing.assert_array_equal(mask_tools.decode(mask), pixels)
    # without a box, or with another one, nobody knows
    assert read_mask(turned, SIZE, None) is None
    assert read_mask(turned, SIZE, [50, 30, 10, 10]) is None


def test_several_rles_of_one_object():
    pixels = np.zeros((2, 48, 64), np.uint8)
    pixels[0, 10:20, 10:20] = pixels[1, 30:40, 40:50] = 1
    rles = [mask_tools.encode(np.asfortranarray(p)) for p in pixels]
    rles = [{"size": r["size"], "counts": r["counts"].decode()} for r in rles]
    mask = read_mask(rles, SIZE, None)
    np.testing.assert_array_equal(mask_tools.decode(mask), pixels.max(0))
    assert read_mask([rles[0], {**rles[1], "counts": "x"}], SIZE, None) is None


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [48, 64], "counts": [3072]},
        {"size": [48, 64], "counts": "b'"},
        {"size": [48, 64], "counts": "b'\\x'"},
        {"size": [48, 64], "counts": [100, 20]},
        {"size": [48, 64], "counts": [10**400]},
        {"size": [48, 64], "counts": [float("nan")]},
        {"size": [7, 7], "counts": [9, 20, 20]},
        {"size": None, "counts": None},
        {"size": [48, 64], "counts": {}},
    ],
)
def test_what_is_no_rle(rle):
    assert read_mask(rle, SIZE, BOX) is None
