import numpy as np
import pytest
from pycocotools import mask as mask_util

from benchmarks.synthetic_coco import _masks, synthetic_coco


@pytest.fixture(scope="module")
def made():
    return synthetic_coco(images=60, objects=900, detections=2050, seed=1)


def test_as_many_as_asked_for(made):
    truth, found = made
    assert len(truth["images"]) == 60
    assert len(truth["annotations"]) == 900
    assert [a["id"] for a in truth["annotations"]] == list(range(1, 901))
    counts = np.bincount([d["image_id"] for d in found])[1:]
    assert counts.tolist() == [35] * 10 + [34] * 50


def test_same_for_a_seed_alone(made):
    again = synthetic_coco(images=60, objects=900, detections=2050, seed=1)
    assert again == made
    assert synthetic_coco(images=60, objects=900, detections=2050, seed=2) != made


def test_sizes_are_mixed_as_coco_s(made):
    sides = np.sqrt([a["bbox"][2] * a["bbox"][3] for a in made[0]["annotations"]])
    shares = np.histogram(sides, [0, 32, 96, 1000])[0] / len(sides)
    assert shares == pytest.approx([0.41, 0.34, 0.25], abs=0.06)


def test_masks_fill_their_boxes_and_polygons_are_alike(made):
    truth, found = made
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    for detection in found[:200]:
        box, rle = detection["bbox"], detection["segmentation"]
        assert tuple(rle["size"]) == sizes[detection["image_id"]]
        assert np.abs(mask_util.toBbox(rle) - box).max() < 0.15 * max(box[2:]) + 2.5
    whole = [a for a in truth["annotations"] if not a["iscrowd"]]
    for annotation in whole[:100]:
        size = sizes[annotation["image_id"]]
        rle = mask_util.merge(mask_util.frPyObjects(annotation["segmentation"], *size))
        assert mask_util.area(rle) == pytest.approx(annotation["area"], rel=0.05, abs=40)


def test_runs_are_as_pycocotools_writes_them():
    boxes = np.array([[0, 0, 10, 8], [3.5, 0.2, 20, 28.5], [25, 20, 6.9, 9.9]])
    for rle in _masks(boxes, np.zeros(3), 30, 32):
        again = mask_util.encode(mask_util.decode(rle))
        assert again["counts"].decode() == rle["counts"]


def test_crowds_ties_and_empty_images(made):
    truth, found = synthetic_coco(images=300, objects=900, detections=3000)
    crowds = [a for a in truth["annotations"] if a["iscrowd"]]
    assert 0 < len(crowds) < 0.05 * 900
    assert all(isinstance(a["segmentation"], dict) for a in crowds)
    assert len({a["image_id"] for a in truth["annotations"]}) < 300
    scores = [d["score"] for d in found]
    assert len(set(scores)) < len(scores)


def test_no_detections():
    assert synthetic_coco(images=2, objects=3, detections=0)[1] == []
