"""Hand-worked: what becomes of one annotation."""

import json

import pytest
from pycocotools import mask as mask_tools

from gn_det.data.checks.fix_annotation import fix_annotation

SIZE = (64, 48)
SQUARE = [[10, 10, 30, 10, 30, 20, 10, 20]]
GOOD = {"bbox": [10, 10, 20, 10], "segmentation": SQUARE, "area": 200, "iscrowd": 0}

NO_MASK = {"segmentation": []}


def fixed(**changes):
    annotation, fixes = fix_annotation({**GOOD, **changes}, SIZE)
    return annotation, [fix.kind for fix in fixes]


def test_good_one_is_left():
    assert fixed() == (GOOD, [])


@pytest.mark.parametrize(
    ("changes", "key", "value", "kinds"),
    [
        ({"bbox": [10, 10, -5, 5]}, "bbox", [10, 10, 20, 10], ["box-negative"]),
        ({"bbox": None}, "bbox", [10, 10, 20, 10], ["box-missing"]),
        ({"bbox": ["10", "9", "20.5", "11"]}, "bbox", [10, 9, 20.5, 11], ["box-format"]),
        ({"bbox": [1, 2, 3]}, "bbox", [10, 10, 20, 10], ["box-format"]),
        ({"bbox": [-4, 30, 20, 30], **NO_MASK}, "bbox", [0, 30, 16, 18], ["box-outside"]),
        (
            {"bbox": ["-4", 30, 20, 30], **NO_MASK},
            "bbox",
            [0, 30, 16, 18],
            ["box-format", "box-outside"],
        ),
        ({"bbox": [5, 5, 0, 5]}, "bbox", [10, 10, 20, 10], ["box-zero"]),
        ({"bbox": [30, 20, -20, -10], **NO_MASK}, "bbox", [10, 10, 20, 10], ["box-negative"]),
        ({"segmentation": SQUARE[0]}, "segmentation", SQUARE, ["polygon-flat"]),
        ({"segmentation": [*SQUARE, [1, 1]]}, "segmentation", SQUARE, ["polygon-points"]),
        (
            {"bbox": [0, 10, 64, 38], "segmentation": [[-5, 10, 30, 10, 70, 60]]},
            "segmentation",
            [[0, 10, 30, 10, 64, 48]],
            ["polygon-outside"],
        ),
        ({"area": None}, "area", 200, ["area"]),
        ({"area": None, "segmentation": []}, "area", 200, ["area"]),
        ({"segmentation": [*SQUARE, [1, 1, 2]], "area": 7}, "area", 200, ["polygon-odd", "area"]),
        ({"iscrowd": "1"}, "iscrowd", 1, ["crowd-value"]),
        ({"iscrowd": None}, "iscrowd", 0, ["crowd-value"]),
        ({"iscrowd": ["1"]}, "iscrowd", 1, ["crowd-value"]),
        ({"iscrowd": 2}, "iscrowd", 1, ["crowd-value"]),  # as Detectron2 and pycocotools take it
    ],
)
def test_fixed(changes, key, value, kinds):
    annotation, done = fixed(**changes)
    assert annotation[key] == value
    assert done[: len(kinds)] == kinds


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"bbox": None, "segmentation": []}, "box-missing"),
        ({"bbox": [70, 70, 5, 5], "segmentation": []}, "box-away"),
        ({"bbox": [5, 5, 0, 5], **NO_MASK}, "box-zero"),
        ({"bbox": [5, 5, -20, 5], **NO_MASK}, "box-negative"),
        ({"bbox": None, "segmentation": [[1, 2, 3]]}, "box-missing"),
        ({"ignore": 1}, "ignore"),
        ({"iscrowd": "maybe"}, "crowd-value"),
    ],
)
def test_removed(changes, kind):
    annotation, kinds = fixed(**changes)
    assert annotation is None
    assert kinds[-1] == kind


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        ([[1, 2, 3]], "polygon-odd"),
        ({"size": [48, 64], "counts": [3072]}, "mask-empty"),
        ({"size": [48, 64], "counts": "x"}, "rle-counts"),
        ({"size": [7, 7], "counts": [9, 20, 20]}, "rle-size"),
        ("rle", "mask-format"),
        ([[500, 500, 600, 500, 600, 600]], "polygon-away"),
        ([[10, 10, 30, 10]], "polygon-points"),
    ],
)
def test_a_mask_that_cannot_be_read_is_dropped_and_its_box_kept(mask, kind):
    annotation, fixes = fix_annotation({**GOOD, "segmentation": mask}, SIZE)
    assert annotation == {"bbox": [10, 10, 20, 10], "area": 200, "iscrowd": 0}
    assert fixes[0].kind == kind
    assert "is removed, the box is kept" in fixes[0].change


@pytest.mark.parametrize("key", ["bbox", "area"])
def test_box_and_area_of_an_rle(key):
    # columns 2 and 3, rows 3 to 7
    runs = [2 * 48 + 3, 5, 43, 5]
    rle = {"size": [48, 64], "counts": [*runs, 48 * 64 - sum(runs)]}
    annotation, kinds = fixed(**{"segmentation": rle, "bbox": [2, 3, 2, 5], key: None})
    assert annotation[key] == {"bbox": [2, 3, 2, 5], "area": 10}[key]
    assert len(kinds) == 1


def test_values_before_and_after_are_complete():
    box = [x + 0.123456789012 for x in (5, 10, 20, 10)]
    box[0] -= 15
    _, fixes = fix_annotation({**GOOD, "segmentation": [], "bbox": box, "iscrowd": "0"}, SIZE)
    texts = [fix.change for fix in fixes]
    assert texts[0].startswith(f"bbox {box} is now [0, {box[1]}, ")
    assert "iscrowd '0' is now 0" in texts


POINTS = [(10, 10), (30, 10), (30, 20), (10, 20)]
RUNS = [10 * 48 + 10, *[10, 38] * 19, 10, 48 * 64 - 29 * 48 - 20]


@pytest.mark.parametrize(
    ("mask", "plain"),
    [
        (str(POINTS), SQUARE),  # as Python prints it
        (str({"size": [48, 64], "counts": b"1234"}), None),
        ({"points": {"exterior": POINTS, "interior": []}}, SQUARE),
        ({"points": {"exterior": POINTS, "interior": [POINTS]}}, None),  # a hole
        ({"type": "Polygon", "coordinates": [POINTS]}, SQUARE),
        ({"size": [48, 64], "counts": str(RUNS)}, {"size": [48, 64], "counts": RUNS}),
        (
            {"size": [48, 64], "counts": " ".join(map(str, RUNS))},
            {"size": [48, 64], "counts": RUNS},
        ),
    ],
)
def test_more_forms_of_masks(mask, plain):
    mask = json.loads(json.dumps(mask))  # lists for tuples
    annotation, _ = fix_annotation({**GOOD, "segmentation": mask}, SIZE)
    assert annotation.get("segmentation") == plain


def test_a_mask_as_python_prints_it():
    rle = mask_tools.merge(mask_tools.frPyObjects(SQUARE, 48, 64))
    annotation, _ = fix_annotation({**GOOD, "segmentation": str(rle)}, SIZE)
    assert annotation["segmentation"] == {"size": [48, 64], "counts": rle["counts"].decode()}
    assert annotation["area"] == 200
