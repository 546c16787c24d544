"""Boxes of a whole file: right ones give no alarm, those of another form are named."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_tools

from gn_det.data import check_json, repair
from gn_det.data.checks.box_evidence import READINGS, BoxEvidence, box_and_mask_problem
from gn_det.data.checks.kinds import KINDS
from gn_det.data.checks.rle import rle_extent

SUSPICIONS = {*READINGS, "box-relative", "box-many-out", "box-upper-left", "box-mask", "box-loose"}


def random_boxes(seed, count, size, smallest=0.05, largest=0.5):
    """Boxes [x, y, width, height] that are spread evenly, as parts of the image's sides."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(smallest, largest, (count, 2)) * size
    places = rng.uniform(0, 1, (count, 2)) * (np.array(size) - sides)
    return np.concatenate([places, sides], 1).round(2).tolist()


def dataset(boxes, size, masks=False, per_image=5):
    """The content of a json; ``masks`` are polygons of the boxes as x, y, width, height."""
    annotations = [
        {
            "id": i + 1,
            "image_id": i // per_image,
            "category_id": 1,
            "bbox": list(box),
            "area": 1,
            "iscrowd": 0,
        }
        for i, box in enumerate(boxes)
    ]
    if masks:
        for annotation in annotations:
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    images = [
        {"id": i, "file_name": f"{i}.png", "width": size[0], "height": size[1]}
        for i in range(-(-len(boxes) // per_image))
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}],
    }


def found(tmp_path, content):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    report = check_json(path).report
    return {kind: report.counts[kind] for kind in SUSPICIONS if report.counts[kind]}, report


# another form of a box [x, y, w, h] in an image of size s
FORMS = {
    "box-corners": lambda b, s: [b[0], b[1], b[0] + b[2], b[1] + b[3]],
    "box-centre": lambda b, s: [b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]],
    "box-swapped": lambda b, s: [b[1], b[0], b[3], b[2]],
    "box-relative": lambda b, s: [v / s[i % 2] for i, v in enumerate(b)],
}
MORE_FORMS = {
    "y1, x1, y2, x2": ("box-swapped", lambda b, s: [b[1], b[0], b[1] + b[3], b[0] + b[2]]),
    "corners in 0 ... 1": (
        "box-relative",
        lambda b, s: FORMS["box-relative"](FORMS["box-corners"](b, s), s),
    ),
    "centres in 0 ... 1": (
        "box-relative",
        lambda b, s: FORMS["box-relative"](FORMS["box-centre"](b, s), s),
    ),
    "y first in 0 ... 1": (
        "box-relative",
        lambda b, s: FORMS["box-swapped"](FORMS["box-relative"](b, s), s),
    ),
}
ALL_FORMS = {**{kind: (kind, form) for kind, form in FORMS.items()}, **MORE_FORMS}
PERCENT = lambda b, s: [100 * v for v in FORMS["box-relative"](b, s)]  # noqa: E731
THOUSANDTHS = lambda b, s: [1000 * v for v in FORMS["box-relative"](b, s)]  # noqa: E731


@pytest.mark.parametrize("count", [8, 40, 320])
@pytest.mark.parametrize("form", ALL_FORMS)
@pytest.mark.parametrize("seed", range(4))
def test_a_form_is_named_without_masks(tmp_path, form, seed, count):
    kind, change = ALL_FORMS[form]
    size = (640, 480)
    boxes = random_boxes(seed, count, size)
    counts, report = found(tmp_path, dataset([change(b, size) for b in boxes], size))
    if count >= 40:
        assert set(counts) == {kind}
    else:  # not each few boxes show what they are
        assert not counts or set(counts) & {kind, "box-many-out", "box-corners"}
        return
    assert f" of {count} boxes, such as " in report.examples[kind][0]
    number = int(report.examples[kind][0].split(" of ")[0])
    assert number == counts[kind]
    assert number >= 0.03 * count
    assert KINDS[kind].severity == "error"


@pytest.mark.parametrize("form", [*ALL_FORMS, "percent", "thousandths"])
@pytest.mark.parametrize("kind_of_mask", ["polygon", "rle"])
def test_a_form_is_named_by_the_mask(tmp_path, form, kind_of_mask):
    kind, change = ALL_FORMS.get(form, ("box-relative", PERCENT))
    change = THOUSANDTHS if form == "thousandths" else change
    size = (320, 200)
    content = dataset(random_boxes(1, 30, size, 0.2), size, masks=True)
    right = [a["bbox"] for a in content["annotations"]]
    for annotation in content["annotations"]:
        annotation["bbox"] = change(annotation["bbox"], size)
        if kind_of_mask == "rle":
            rle = mask_tools.merge(mask_tools.frPyObjects(annotation["segmentation"], 200, 320))
            annotation["segmentation"] = {"size": [200, 320], "counts": rle["counts"].decode()}
    counts, _ = found(tmp_path, content)
    assert set(counts) <= {kind, "box-loose"}  # some are like their mask, or nearly so
    assert counts[kind] >= 25
    # --fix takes the box from the mask, and says so
    path, out = tmp_path / "boxes.json", tmp_path / "out.json"
    repair(path, out)
    copy = json.loads(out.read_text())["annotations"]
    for annotation, box in zip(copy, right):
        if annotation["bbox"] != content["annotations"][annotation["id"] - 1]["bbox"]:
            np.testing.assert_allclose(annotation["bbox"], box, atol=1)
    changes = (tmp_path / "out.json.changes.txt").read_text().splitlines()
    assert any(f": {kind}: bbox [" in line and "] is now [" in line for line in changes)
    assert not check_json(out).report.of("error")


def test_of_the_whole_file(tmp_path):
    size = (640, 480)
    boxes = [FORMS["box-corners"](b, size) for b in random_boxes(0, 320, size)]
    _, report = found(tmp_path, dataset(boxes, size))
    (line,) = report.lines("error")
    assert line.startswith("2")
    assert "x box-corners: boxes look like x1, y1, x2, y2 (2" in line
    assert " of 320 boxes, such as 0.png, annotation " in line


RIGHT = {
    "evenly spread": {},
    "small objects": {"smallest": 0.005, "largest": 0.05},
    "large objects": {"smallest": 0.7, "largest": 1.0},
    "objects that fill the image": {"smallest": 1.0, "largest": 1.0},
    "all sizes": {"smallest": 0.001, "largest": 1.0},
}


@pytest.mark.parametrize("case", RIGHT)
@pytest.mark.parametrize("size", [(640, 480), (64, 64), (300, 1000), (8, 8)])
@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("count", [1, 2, 8, 300])
def test_right_boxes_give_no_alarm(tmp_path, case, size, masks, count):
    for seed in range(3):
        boxes = random_boxes(seed, count, size, **RIGHT[case])
        boxes = [[x, y, max(w, 1), max(h, 1)] for x, y, w, h in boxes]
        counts, _ = found(tmp_path, dataset(boxes, size, masks, per_image=3))
        assert not counts


def test_objects_of_one_pixel(tmp_path):
    size = (640, 480)
    rng = np.random.default_rng(0)
    boxes = [[int(x), int(y), 1, 1] for x, y in rng.integers(0, (640, 480), (200, 2))]
    for masks in (False, True):
        assert not found(tmp_path, dataset(boxes, size, masks))[0]
    assert not found(tmp_path, dataset([[0, 0, 1, 1]] * 3, size))[0]


def test_boxes_that_reach_the_edges_and_a_little_over(tmp_path):
    rng = np.random.default_rng(0)
    boxes = []
    for _ in range(200):
        w, h = rng.uniform(20, 200, 2)
        places = [[0, 0], [640 - w, 480 - h], [640 - w + 1, 0], [-1, 479 - h]]
        boxes.append([*rng.choice(places), w, h])
    assert not found(tmp_path, dataset(boxes, (640, 480)))[0]


def test_some_boxes_over_the_edge_are_no_other_form(tmp_path):
    # objects that go on beside the image, boxed in full
    boxes = random_boxes(0, 200, (640, 480))
    for i in range(0, 200, 10):
        boxes[i][i // 10 % 2] -= 100 if i % 20 else -150
    counts, report = found(tmp_path, dataset(boxes, (640, 480)))
    assert not counts
    assert report.counts["box-outside"] > 0


@pytest.mark.parametrize("scale", [2, 0.3])
def test_boxes_of_another_size_of_the_image(tmp_path, scale):
    boxes = [[v * scale for v in box] for box in random_boxes(0, 200, (640, 480))]
    kind = "box-many-out" if scale > 1 else "box-upper-left"
    counts, _ = found(tmp_path, dataset(boxes, (640, 480)))
    assert counts == {kind: counts[kind]}


def test_crowds_are_not_looked_at(tmp_path):
    size = (640, 480)
    content = dataset([FORMS["box-corners"](b, size) for b in random_boxes(0, 40, size)], size)
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    assert not found(tmp_path, content)[0]


def test_boxes_of_another_form_without_masks_stay_as_they_are(tmp_path):
    size = (640, 480)
    boxes = [FORMS["box-corners"](b, size) for b in random_boxes(0, 40, size)]
    content = dataset(boxes, size)
    found(tmp_path, content)
    out = tmp_path / "out.json"
    repair(tmp_path / "boxes.json", out)
    assert [a["bbox"] for a in json.loads(out.read_text())["annotations"]] == boxes  # not clipped
    assert check_json(out).report.of("error") == ["box-corners"]


def test_nothing_was_counted():
    assert BoxEvidence().suspicion(0) is None
    assert BoxEvidence().suspicion(100) is None


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ([100, 100, 60, 40], None),
        ([98, 101, 63, 38], None),  # drawn by hand
        ([95, 96, 69, 47], None),
        ([100, 100, 160, 140], "box-corners"),
        ([130, 120, 60, 40], "box-centre"),
        ([100, 100, 40, 60], "box-swapped"),
        ([100, 100, 140, 160], "box-swapped"),
        ([0.25, 0.5, 0.15, 0.2], "box-relative"),
        ([25, 50, 15, 20], "box-relative"),
        ([250, 500, 150, 200], "box-relative"),
        ([50, 50, 30, 20], "box-mask"),  # of an image of half the size
        ([100, 100, 30, 20], "box-mask"),  # half of it
        ([300, 150, 60, 40], "box-mask"),
        ([80, 60, 200, 130], "box-loose"),  # with the hidden part of the object
        ([0, 0, 400, 200], "box-loose"),
    ],
)
def test_a_box_beside_its_mask(box, kind):
    assert box_and_mask_problem(box, (100, 100, 160, 140), (400, 200)) == kind


def test_what_is_outside_of_the_image_does_not_count():
    assert box_and_mask_problem([-50, 20, 100, 50], (-2, 20, 50, 70), (400, 200)) is None
    assert box_and_mask_problem([300, 20, 200, 50], (300, 20, 400, 70), (400, 200)) is None


@pytest.mark.parametrize("seed", range(20))
def test_extent_of_an_rle(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 30, 2)
    mask = np.asfortranarray(rng.random(shape) < rng.choice([0.01, 0.1, 0.7]), dtype=np.uint8)
    mask[rng.integers(shape[0]), rng.integers(shape[1])] = 1
    rows, columns = np.nonzero(mask)
    rle = mask_tools.encode(mask)
    extent = rle_extent({"size": rle["size"], "counts": rle["counts"].decode()})
    assert extent == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_boxes_that_are_all_of_the_image(tmp_path):
    counts, _ = found(tmp_path, dataset([[0.0, 0.0, 1.0, 1.0]] * 2, (640, 480)))
    assert counts == {"box-relative": 2}


@pytest.mark.parametrize(("right", "relative"), [(19, 1), (38, 2), (300, 3)])
def test_a_few_relative_boxes(tmp_path, right, relative):
    boxes = random_boxes(0, right, (640, 480)) + [[0.25, 0.5, 0.1, 0.2]] * relative
    assert found(tmp_path, dataset(boxes, (640, 480)))[0] == {"box-relative": relative}


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("part", [100, 1000])
def test_percent_in_large_images(tmp_path, masks, part):
    boxes = [[v * part for v in box] for box in random_boxes(0, 200, (1, 1))]
    boxes += [[0.8 * part, 0.8 * part, 0.2 * part, 0.2 * part]]
    counts, _ = found(tmp_path, dataset(boxes, (2000, 1600), masks))
    assert counts == {"box-relative": 201}


@pytest.mark.parametrize("every", [3, 5, 10])
def test_some_boxes_are_corners(tmp_path, every):
    size = (640, 480)
    boxes = random_boxes(0, 300, size)
    for i in range(0, 300, every):
        x, y, w, h = boxes[i]
        boxes[i] = [x, y, x + w, y + h]
    counts, _ = found(tmp_path, dataset(boxes, size))
    assert set(counts) == {"box-corners"}


def test_large_objects_that_go_on_beside_the_image_are_no_corners(tmp_path):
    rng = np.random.default_rng(0)
    boxes = []
    for i in range(200):
        w, h = rng.uniform(350, 450), rng.uniform(280, 400)
        x, y = rng.uniform(0, 640 - w), rng.uniform(0, 480 - h)
        boxes.append([x + 100 if i % 12 == 0 else x, y, w, h])
    assert not found(tmp_path, dataset(boxes, (640, 480)))[0]


def test_boxes_and_masks_of_larger_images(tmp_path):
    boxes = [[2 * v for v in box] for box in random_boxes(0, 200, (640, 480))]
    counts, _ = found(tmp_path, dataset(boxes, (640, 480), True))
    assert "box-many-out" in counts
