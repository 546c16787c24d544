import math
import re

import numpy as np
import pytest
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.synthetic_coco import synthetic_coco
from gn_det.data import DatasetError
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


@pytest.mark.parametrize("scorer", ["fast", "pycocotools"])
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_perfect_detections(truth, task, scorer):
    found = [detection(1, 1, [10, 10, 40, 40]), detection(2, 2, [20, 20, 50, 50])]
    results = score(truth, found, task, scorer)
    assert results["AP"] == pytest.approx(100)
    assert results["APm"] == pytest.approx(100)
    assert math.isnan(results["APl"])  # no object is larger than 96 x 96
    assert math.isnan(results["AP-c"])
    assert set(results) == {*METRICS, "AP-a", "AP-b", "AP-c"}


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_classes_of_one_name_are_all_there(truth, task):
    for category in truth.dataset["categories"][:2]:
        category["name"] = "same"
    truth.createIndex()
    results = score(truth, [detection(2, 2, [20, 20, 50, 50])], task)
    assert set(results) == {*METRICS, "AP-same (1)", "AP-same (2)", "AP-c"}
    assert (results["AP-same (1)"], results["AP-same (2)"]) == (0, pytest.approx(100))


def test_hand_worked_overlap(truth):
    # 40x40 against 40x32 in the same corner: IoU 0.8, so 7 of the 10 thresholds 0.5 ... 0.95 hold
    found = [detection(1, 1, [10, 10, 40, 32]), detection(2, 2, [20, 20, 50, 50])]
    results = score(truth, found, "bbox")
    assert results["AP-a"] == pytest.approx(70)
    assert results["AP-b"] == pytest.approx(100)
    assert results["AP"] == pytest.approx(85)
    assert results["AP50"] == results["AP75"] == pytest.approx(100)


@pytest.mark.parametrize("scorer", ["fast", "pycocotools"])
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_no_detection_is_zero(truth, task, scorer):
    results = score(truth, [], task, scorer)
    assert results["AP"] == results["AP50"] == results["AP-a"] == 0


@pytest.mark.parametrize("scorer", ["fast", "pycocotools"])
def test_input_is_not_changed(truth, scorer):
    found = [detection(1, 1, [10, 10, 40, 40])]
    score(truth, found, "segm", scorer)
    assert found == [detection(1, 1, [10, 10, 40, 40])]


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_scorers_agree_and_are_coco_s_own_summary(task):
    found = synthetic_coco(images=12, objects=80, detections=700, seed=3)
    truth = COCO()
    truth.dataset, detections = found
    truth.createIndex()
    fast = score(truth, detections, task)
    reference = score(truth, detections, task, "pycocotools")
    assert list(fast) == list(reference)
    assert fast == pytest.approx(reference, abs=1e-6, nan_ok=True)
    assert 5 < fast["AP"] < 95
    if task == "segm":
        detections = [{k: v for k, v in d.items() if k != "bbox"} for d in detections]
    own = COCOeval(truth, truth.loadRes(detections), task)
    own.evaluate()
    own.accumulate()
    own.summarize()
    assert [fast[m] for m in METRICS] == pytest.approx([100 * s for s in own.stats[:6]], abs=1e-6)


def test_detection_of_an_image_that_is_not_there(truth):
    with pytest.raises(DatasetError, match=r"images that the annotations do not have: \[9\]"):
        score(truth, [detection(9, 1, [0, 0, 5, 5])], "bbox")


@pytest.mark.parametrize(
    ("task", "key", "value"),
    [("bbox", "bbox", None), ("segm", "segmentation", []), ("segm", "segmentation", {})],
)
def test_truth_that_lacks_what_counts(truth, task, key, value):
    truth.anns[2][key] = value
    with pytest.raises(DatasetError, match=f"Annotation 2 of image 2 has no {key}"):
        score(truth, [], task)


def test_annotation_with_id_0_is_found_and_warned_of(truth, caplog):
    truth.dataset["annotations"][0]["id"] = 0
    truth.createIndex()
    found = [detection(1, 1, [10, 10, 40, 40]), detection(2, 2, [20, 20, 50, 50])]
    assert score(truth, found, "bbox")["AP"] == pytest.approx(100)
    assert "id 0, which means 'not found' in pycocotools" in caplog.text
    assert score(truth, found, "bbox", "pycocotools")["AP-a"] == 0


def test_says_how_long_it_took_and_how_much_memory(truth, caplog):
    with caplog.at_level("INFO"):
        score(truth, [detection(1, 1, [10, 10, 40, 40])], "bbox")
    assert "bbox: 1 detections on 2 images scored in 0." in caplog.text
    (mebibytes,) = re.findall(r"peak memory of the process: (\d+) MiB", caplog.text)
    assert int(mebibytes) > 50
