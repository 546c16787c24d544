"""The fast scorer against pycocotools, number by number."""

import contextlib
import io
import logging
import sys

import numpy as np
import pytest
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gn_det.evaluation.scorers import precision_of

SIZE = 300
CLASSES = (2, 3, 7, 11)  # the last has no object


def polygon(box):
    """Return an octagon in the box."""
    x, y, w, h = box
    points = [(0.3, 0), (0.7, 0), (1, 0.3), (1, 0.7), (0.7, 1), (0.3, 1), (0, 0.7), (0, 0.3)]
    return [[float(v) for px, py in points for v in (x + px * w, y + py * h)]]


def rle(box):
    encoded = mask_util.merge(mask_util.frPyObjects(polygon(box), SIZE, SIZE))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def uncompressed(box):
    mask = mask_util.decode(rle(box)).reshape(-1, order="F")
    edges = np.flatnonzero(np.diff(mask, prepend=0)).tolist()
    return {"size": [SIZE, SIZE], "counts": np.diff([0, *edges, SIZE * SIZE]).tolist()}


def random_case(seed):
    """Return truth and detections with everything that COCO's rules have a case for.

    Ten images: the first two are without objects, the third is crowded with 150 detections of one
    class, the last has objects and no detections. All sizes, some exactly at the limits of 32 and
    96 pixels; crowds; masks as polygon, RLE and uncompressed RLE; scores of ten values.
    """
    rng = np.random.default_rng(seed)
    truth = COCO()
    annotations, detections = [], []

    def random_box():
        size = rng.choice([8, 20, 32, 50, 96, 150])
        w, h = size * rng.choice([1, 0.75]), size
        return [*(float(v) for v in rng.integers(0, SIZE - size, 2)), float(w), float(h)]

    for image in range(10):
        for _ in range(0 if image < 2 else rng.integers(1, 9)):
            box = random_box()
            crowd = bool(rng.random() < 0.15)
            shape = uncompressed if crowd else (polygon, rle)[rng.integers(2)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(rng.choice(CLASSES[:3])),
                    "bbox": box,
                    "segmentation": shape(box),
                    "area": box[2] * box[3],
                    "iscrowd": int(crowd),
                }
            )
        if image == 9:
            continue
        own = [a for a in annotations if a["image_id"] == image]
        for index in range(150 if image == 2 else rng.integers(0, 30)):
            if own and rng.random() < 0.7:
                source = own[rng.integers(len(own))]
                box = (np.array(source["bbox"]) + rng.integers(-4, 5, 4)).clip(1).tolist()
                label = source["category_id"]
            else:
                box, label = random_box(), int(rng.choice(CLASSES))
            detections.append(
                {
                    "image_id": image,
                    "category_id": CLASSES[0] if image == 2 and index < 120 else label,
                    "bbox": box,
                    "segmentation": rle(box),
                    "score": float(rng.integers(1, 11) / 10),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset = {
            "images": [{"id": i, "height": SIZE, "width": SIZE} for i in range(10)],
            "categories": [{"id": i, "name": f"class {i}"} for i in CLASSES],
            "annotations": annotations,
        }
        truth.createIndex()
    order = rng.permutation(len(detections))
    return truth, [detections[i] for i in order]


def without(detections, key):
    return [{k: v for k, v in d.items() if k != key} for d in detections]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_every_precision_is_pycocotools(seed, task):
    truth, detections = random_case(seed)
    found = without(detections, "bbox" if task == "segm" else "segmentation")
    fast = precision_of(truth, found, task, "fast")
    # COCO's own code, without ours around it
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCOeval(truth, truth.loadRes(without(found, "none")), task)
        reference.evaluate()
        reference.accumulate()
    expected = reference.eval["precision"]
    assert fast.shape == expected.shape == (10, 101, 4, 4, 3)
    np.testing.assert_array_equal(fast, expected)
    np.testing.assert_array_equal(precision_of(truth, found, task, "pycocotools"), expected)
    assert (expected[:, :, 3] == -1).all()  # class 11 has nothing to find
    for area in range(4):  # the case is worth something: no size is all right or all wrong
        known = expected[:, :, :3, area, -1]
        assert 0.02 < known[known > -1].mean() < 0.98
    # the cap of 100 counts: 120 detections of one class are on one image
    assert (expected[..., 0, 0, 1] != expected[..., 0, 0, 2]).any()


@pytest.mark.parametrize("scorer", ["fast", "pycocotools"])
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_no_detections(task, scorer):
    truth, _ = random_case(0)
    precision = precision_of(truth, [], task, scorer)
    assert (precision[:, :, :3, 0] == 0).all()
    assert (precision[:, :, 3] == -1).all()


@pytest.mark.parametrize("scorer", ["fast", "pycocotools"])
def test_nothing_to_find(scorer):
    truth, detections = random_case(0)
    truth.dataset["annotations"] = []
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    found = without(detections, "segmentation")
    assert (precision_of(truth, found, "bbox", scorer) == -1).all()


def test_fast_after_pycocotools_on_the_same_truth():
    # which leaves its own keys and encoded masks in the annotations
    truth, detections = random_case(1)
    found = without(detections, "bbox")
    first = precision_of(truth, found, "segm", "fast")
    precision_of(truth, found, "segm", "pycocotools")
    np.testing.assert_array_equal(precision_of(truth, found, "segm", "fast"), first)


def test_without_hotcoco_pycocotools_scores(monkeypatch, caplog):
    truth, detections = random_case(2)
    found = without(detections, "segmentation")
    expected = precision_of(truth, found, "bbox", "fast")
    assert not caplog.records
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(precision_of(truth, found, "bbox", "fast"), expected)
    assert "hotcoco is not installed (pip install hotcoco), so pycocotools is used" in caplog.text


def test_ids_that_hotcoco_cannot_read(caplog):
    truth, detections = random_case(3)
    found = without(detections, "segmentation")
    expected = precision_of(truth, found, "bbox", "fast")
    for entry in truth.dataset["images"]:
        entry["id"] = f"image {entry['id']}"
    for entry in truth.dataset["annotations"] + found:
        entry["image_id"] = f"image {entry['image_id']}"
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    np.testing.assert_array_equal(precision_of(truth, found, "bbox", "fast"), expected)
    assert "hotcoco cannot read this" in caplog.text
    assert "expected a non-negative integer, got 'image 0'" in caplog.text


def test_scorer_that_does_not_exist():
    truth, detections = random_case(0)
    with pytest.raises(ValueError, match="no scorer 'quick'; choose one of fast, pycocotools"):
        precision_of(truth, detections, "bbox", "quick")
