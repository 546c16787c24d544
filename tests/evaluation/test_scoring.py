import math

import numpy as np
import pytest
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from gn_det.evaluation import METRICS, score


def rle(box, size=100):
    x, y, w, h = box
    mask = np.zeros((size, size), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    encoded = mask_util.encode(mask)
    encoded["counts"] = encoded["counts"].decode()
    return encoded


@pytest.fixture
def truth():
    """Two images with one object each, of the classes a and b; class c has none."""
    coco = COCO()
    boxes = [[10, 10, 40, 40], [20, 20, 50, 50]]
    coco.dataset = {
        "images": [{"id": i, "height": 100, "width": 100} for i in (1, 2)],
        "categories": [{"id": i, "name": n} for i, n in ((1, "a"), (2, "b"), (3, "c"))],
        "annotations": [
            {
                "id": i + 1,
                "image_id": i + 1,
                "category_id": i + 1,
                "bbox": box,
                "segmentation": rle(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for i, box in enumerate(boxes)
        ],
    }
    coco.createIndex()
    return coco


def detection(image_id, category_id, box, value=0.9):
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "segmentation": rle(box),
        "score": value,
    }


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_perfect_detections(truth, task):
    found = [detection(1, 1, [10, 10, 40, 40]), detection(2, 2, [20, 20, 50, 50])]
    results = score(truth, found, task)
    assert results["AP"] == pytest.approx(100)
    assert results["APm"] == pytest.approx(100)
    assert math.isnan(results["APl"])  # no object is larger than 96 x 96
    assert math.isnan(results["AP-c"])
    assert set(results) == {*METRICS, "AP-a", "AP-b", "AP-c"}


def test_hand_worked_overlap(truth):
    # 40x40 against 40x32 in the same corner: IoU 0.8, so 7 of the 10 thresholds 0.5 ... 0.95 hold
    found = [detection(1, 1, [10, 10, 40, 32]), detection(2, 2, [20, 20, 50, 50])]
    results = score(truth, found, "bbox")
    assert results["AP-a"] == pytest.approx(70)
    assert results["AP-b"] == pytest.approx(100)
    assert results["AP"] == pytest.approx(85)
    assert results["AP50"] == results["AP75"] == pytest.approx(100)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_no_detection_is_zero(truth, task):
    results = score(truth, [], task)
    assert results["AP"] == results["AP50"] == results["AP-a"] == 0


def test_input_is_not_changed(truth):
    found = [detection(1, 1, [10, 10, 40, 40])]
    score(truth, found, "segm")
    assert found == [detection(1, 1, [10, 10, 40, 40])]
