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
    recalls = {"AR@1", "AR@10", "AR@100", "ARs@100", "ARm@100", "ARl@100"}
    assert set(results) == {*METRICS, *recalls, "AP-a", "AP-b", "AP-c"}
    assert results["AR@1"] == results["ARm@100"] == pytest.approx(100)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_classes_of_one_name_are_all_there(truth, task):
    for category in truth.dataset["categories"][:2]:
        category["name"] = "same"
    truth.createIndex()
    results = score(truth, [detection(2, 2, [20, 20, 50, 50])], task)
    names = {name for name in results if not name.startswith("AR")}
    assert names == {*METRICS, "AP-same (1)", "AP-same (2)", "AP-c"}
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
    recalls = ["AR@1", "AR@10", "AR@100", "ARs@100", "ARm@100", "ARl@100"]
    expected = [100 * s for s in own.stats]
    assert [fast[m] for m in (*METRICS, *recalls)] == pytest.approx(expected, abs=1e-6)


def crowded(count, classes=1):
    """Return an image with many objects side by side, and perfect detections of them."""
    truth = COCO()
    boxes = [[10 * (i % 20), 10 * (i // 20), 8, 8] for i in range(count)]
    truth.dataset = {
        "images": [{"id": 1, "height": 200, "width": 200}],
        "categories": [{"id": i + 1, "name": f"c{i}"} for i in range(classes)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 1,
                "category_id": i % classes + 1,
                "bbox": box,
                "segmentation": rle(box, 200),
                "area": 64,
                "iscrowd": 0,
            }
            for i, box in enumerate(boxes)
        ],
    }
    truth.createIndex()
    found = [
        {**detection(1, i % classes + 1, box), "segmentation": rle(box, 200)}
        for i, box in enumerate(boxes)
    ]
    return truth, found


@pytest.mark.parametrize("scorer", ["fast", "pycocotools"])
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_more_than_100_objects(task, scorer):
    truth, found = crowded(156)
    # 100 of 156: the first 65 of 101 recall thresholds are reached
    results = score(truth, found, task, scorer)
    assert results["AP"] == pytest.approx(100 * 65 / 101)
    assert results["AR@100"] == pytest.approx(100 * 100 / 156)
    results = score(truth, found, task, scorer, max_detections=156)
    assert results["AP"] == results["AR@156"] == results["ARs@156"] == pytest.approx(100)
    assert results["AR@10"] == pytest.approx(100 * 10 / 156)
    assert "AR@100" not in results
    results = score(truth, found, task, scorer, max_detections=155)
    assert results["AP"] == pytest.approx(100 * 100 / 101)
    # COCO counts each class by itself
    assert score(*crowded(156, classes=2), task, scorer)["AP"] == pytest.approx(100)


@pytest.mark.parametrize("scorer", ["fast", "pycocotools"])
@pytest.mark.parametrize("limit", [1, 5, 10, 11])
def test_fewer_detections_than_coco_counts(scorer, limit):
    truth, found = crowded(20)
    results = score(truth, found, "bbox", scorer, max_detections=limit)
    recalls = {name: value for name, value in results.items() if name.startswith("AR@")}
    limits = [n for n in (1, 10) if n < limit] + [limit]
    assert recalls == {f"AR@{n}": pytest.approx(5 * n) for n in limits}
    assert results["AP"] == pytest.approx(100 * (5 * limit + 1) / 101)


def persons(seed=0, points=17):
    """Return images with persons, and keypoints near theirs; some persons have no keypoints."""
    rng = np.random.default_rng(seed)
    annotations, found = [], []
    for number in range(24):
        x, y, w, h = (int(v) for v in (*rng.integers(0, 60, 2), *rng.integers(20, 120, 2)))
        place = rng.uniform((x, y), (x + w, y + h), (points, 2)).round()
        seen = rng.integers(0, 3, points) * (number % 6 > 0)
        image = 1 + number % 3
        annotations.append(
            {
                "id": number + 1,
                "image_id": image,
                "category_id": 1,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": int(number % 11 == 10),
                "keypoints": np.column_stack([place, seen]).ravel().tolist(),
                "num_keypoints": int((seen > 0).sum()),
            }
        )
        for _ in range(rng.integers(0, 4)):
            near = np.column_stack([place + rng.normal(0, 4, place.shape), np.ones(points)])
            value = float(rng.integers(1, 6) / 5)
            found.append(
                {
                    "image_id": image,
                    "category_id": 1,
                    "bbox": [x, y, w, h],
                    "keypoints": near.ravel().tolist(),
                    "score": value,
                }
            )
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "height": 200, "width": 200} for i in (1, 2, 3)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": annotations,
    }
    truth.createIndex()
    return truth, found


@pytest.mark.parametrize("scorer", ["fast", "pycocotools"])
@pytest.mark.parametrize("boxes", [True, False])
@pytest.mark.parametrize(("points", "sigmas"), [(17, ()), (5, (0.1, 0.05, 0.07, 0.02, 0.06))])
def test_keypoints_are_coco_s_own_summary(scorer, boxes, points, sigmas):
    truth, found = persons(points=points)
    if not boxes:  # then the area is that of the keypoints
        found = [{k: v for k, v in d.items() if k != "bbox"} for d in found]
    results = score(truth, found, "keypoints", scorer, keypoint_sigmas=sigmas)
    own = COCOeval(truth, truth.loadRes([{**d} for d in found]), "keypoints")
    if sigmas:
        own.params.kpt_oks_sigmas = np.array(sigmas)
    own.evaluate()
    own.accumulate()
    own.summarize()
    names = ["AP", "AP50", "AP75", "APm", "APl", "AR@20"]
    expected = [100 * own.stats[i] for i in (0, 1, 2, 3, 4, 5)]
    assert [results[name] for name in names] == pytest.approx(expected, abs=1e-6)
    assert [results["ARm@20"], results["ARl@20"]] == pytest.approx(
        [100 * own.stats[8], 100 * own.stats[9]], abs=1e-6
    )
    assert 5 < results["AP"] < 95
    assert set(results) == {*names, "ARm@20", "ARl@20", "AP-person"}


@pytest.mark.parametrize("scorer", ["fast", "pycocotools"])
def test_persons_without_keypoints_count_neither_way(scorer):
    truth, found = persons()
    expected = score(truth, found, "keypoints", scorer)
    for annotation in truth.dataset["annotations"]:
        if not annotation["num_keypoints"]:
            del annotation["keypoints"], annotation["num_keypoints"]
        elif annotation["id"] % 2:
            del annotation["num_keypoints"]
    truth.createIndex()
    assert score(truth, found, "keypoints", scorer) == pytest.approx(expected, nan_ok=True)
    assert score(truth, [], "keypoints", scorer)["AP"] == 0


def test_keypoints_that_do_not_fit_the_sigmas():
    truth, found = persons(points=5)
    with pytest.raises(
        DatasetError, match=r"An object in image 1 has 5 keypoints, .* 17 OKS.*KEYPOINT_OKS_SIGMAS"
    ):
        score(truth, found, "keypoints")
    found[3]["keypoints"] += [1, 1, 1]
    with pytest.raises(DatasetError, match="A detection in image . has 6 keypoints, .* are 5 OKS"):
        score(truth, found, "keypoints", keypoint_sigmas=[0.1] * 5)
    for annotation in truth.dataset["annotations"]:
        del annotation["keypoints"]
    truth.createIndex()
    with pytest.raises(DatasetError, match="Annotation 1 of image 1 has no keypoints"):
        score(truth, found, "keypoints")


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


@pytest.mark.parametrize("scorer", ["fast", "pycocotools"])
@pytest.mark.parametrize("ids", [(0, 1), (False, True), (7, 7), (-1, 0), (0.0, 0.5), (math.nan, 1)])
def test_ids_of_annotations_that_pycocotools_would_misread(truth, ids, scorer, caplog):
    for annotation, number in zip(truth.dataset["annotations"], ids):
        annotation["id"] = number
    truth.createIndex()
    found = [detection(1, 1, [10, 10, 40, 40]), detection(2, 2, [20, 20, 50, 50])]
    assert score(truth, found, "bbox", scorer)["AP"] == pytest.approx(100)
    assert not caplog.records


def test_says_how_long_it_took_and_how_much_memory(truth, caplog):
    with caplog.at_level("INFO"):
        score(truth, [detection(1, 1, [10, 10, 40, 40])], "bbox")
    assert "bbox: 1 detections on 2 images scored in 0." in caplog.text
    (mebibytes,) = re.findall(r"peak memory of the process: (\d+) MiB", caplog.text)
    assert int(mebibytes) > 50


@pytest.mark.parametrize("scorer", ["fast", "pycocotools"])
def test_masks_need_the_size_of_their_image(truth, scorer):
    found = [detection(1, 1, [10, 10, 40, 40]), detection(2, 2, [20, 20, 50, 50])]
    del truth.imgs[2]["height"]
    assert score(truth, found, "bbox", scorer)["AP"] == pytest.approx(100)
    with pytest.raises(DatasetError, match="Image 2 has no height and width in the annotations"):
        score(truth, found, "segm", scorer)
