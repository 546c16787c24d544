"""Training sets that are lists of dicts: the kinds and messages that a json gets."""

import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode
from pycocotools import mask as mask_tools

from gn_det.data import DatasetError
from gn_det.data.checks.coco_json import check_train_dicts
from gn_det.data.checks.dict_records import DictRecords

CLASSES = ["cat", "dog", "cow"]
SQUARE = [10, 10, 30, 10, 30, 20, 10, 20]


def record(**changes):
    """One image with one object, 20 x 10 at (10, 10)."""
    annotation = {
        "bbox": [10, 10, 30, 20],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": 1,
        "segmentation": [SQUARE],
        **changes,
    }
    annotation = {key: value for key, value in annotation.items() if value is not ...}
    return {"file_name": "a.png", "width": 64, "height": 48, "annotations": [annotation]}


def kinds(*dicts, classes=CLASSES):
    report = check_train_dicts(list(dicts), classes).report
    rest = {"class-empty", "image-empty", "name-twice"}
    return {kind for kind, count in report.counts.items() if count} - rest


def as_rle(**kinds_of):
    pixels = np.zeros((48, 64), np.uint8, order="F")
    pixels[10:20, 10:30] = 1
    rle = mask_tools.encode(pixels)
    return pixels, rle, {**rle, "counts": rle["counts"].decode()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bbox": (10, 10, 30, 20)},
        {"bbox": np.array([10, 10, 30, 20], np.float32)},
        {"bbox": np.array([10, 10, 20, 10]), "bbox_mode": BoxMode.XYWH_ABS},
        {"bbox_mode": int(BoxMode.XYXY_ABS)},
        {"category_id": np.int64(2)},
        {"segmentation": [np.array(SQUARE)]},
        {"segmentation": (tuple(SQUARE),)},
        {"segmentation": [np.array(SQUARE).reshape(-1, 2)]},  # as Detectron2's mapper reshapes it
        {"bbox": torch.tensor([10, 10, 30, 20])},
        {"segmentation": as_rle()[0]},
        {"segmentation": as_rle()[0].astype(bool)},
        {"segmentation": as_rle()[1]},
        {"segmentation": as_rle()[2]},
        {"segmentation": ...},
        {"iscrowd": False},
        {"iscrowd": np.int64(0)},
    ],
)
def test_right_ones(changes):
    assert kinds(record(**changes)) == set()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"bbox": [10, 10, 5, 20]}, "box-negative"),
        ({"bbox": [10, 10, 10, 20]}, "box-zero"),
        ({"bbox": [10, 10, float("nan"), 20]}, "box-nan"),
        ({"bbox": [10, 10, 30]}, "box-format"),
        ({"bbox": ...}, "box-missing"),
        ({"bbox": [100, 100, 120, 120]}, "box-away"),
        ({"bbox": [10, 10, 90, 20], "segmentation": ...}, "box-outside"),
        ({"bbox": [40, 30, 60, 40]}, "box-mask"),
        ({"bbox_mode": BoxMode.XYWH_ABS}, "box-corners"),
        ({"bbox": [10 / 64, 10 / 48, 30 / 64, 20 / 48]}, "box-relative"),
        ({"bbox_mode": ...}, "box-mode"),
        ({"bbox_mode": BoxMode.XYXY_REL}, "box-mode"),
        ({"category_id": 3}, "class-unknown"),
        ({"category_id": -1}, "class-unknown"),
        ({"category_id": ...}, "reference"),
        ({"category_id": "cat"}, "id-text"),
        ({"segmentation": [[1, 2, 3]]}, "polygon-odd"),
        ({"segmentation": [[500, 500, 600, 500, 600, 600]]}, "polygon-away"),
        ({"segmentation": {**as_rle()[1], "size": [64, 48]}}, "rle-size"),
        ({"segmentation": {"size": [48, 64], "counts": b"x"}}, "rle-counts"),
        ({"segmentation": np.zeros((48, 64), bool)}, "mask-empty"),
        ({"iscrowd": "0"}, "crowd-value"),
        ({"iscrowd": 1}, "crowd"),
    ],
)
def test_wrong_ones(changes, kind):
    found = kinds(record(**changes))
    assert kind in found
    assert found <= {kind, "class-unknown", "box-corners", "box-relative"}


def test_boxes_of_all_dicts_are_looked_at():
    rng = np.random.default_rng(0)
    dicts = []
    for _ in range(60):
        w, h = rng.uniform(5, 30, 2)
        x, y = rng.uniform(0, 64 - w), rng.uniform(0, 48 - h)
        box = [x, y, x + w, y + h]
        dicts.append(record(bbox=box, bbox_mode=BoxMode.XYWH_ABS, segmentation=...))
    assert kinds(*dicts) == {"box-corners", "box-outside"}
    for one in dicts:
        one["annotations"][0]["bbox_mode"] = BoxMode.XYXY_ABS
    assert kinds(*dicts) == set()


def test_images():
    found = check_train_dicts([record(), {"file_name": "b.png"}], CLASSES)
    assert found.report.counts == {"image-empty": 1, "class-empty": 2}  # no size is needed
    assert found.summary() == "2 images, 1 annotations, 3 classes"
    assert kinds({**record(), "width": 0}) == {"image-size"}
    assert kinds({**record(), "file_name": ""}) == {"image-name"}


def test_lists_that_are_not_looked_at():
    assert check_train_dicts([], CLASSES) is None
    assert check_train_dicts([{"file_name": "a.png"}], CLASSES) is None
    turned = {"bbox": [10, 10, 5, 5, 45], "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 0}
    assert check_train_dicts([{**record(), "annotations": [turned]}], CLASSES) is None


def test_classes_without_names():
    found = check_train_dicts([record(category_id=2)], None)
    assert found.class_names == ["0", "1", "2"]
    assert not found.classes_named
    assert not found.report.of("error")


def test_counts_are_known():
    records = DictRecords([record(), record()], CLASSES)
    assert len(list(records)) == 2 + 3 + 2
    assert records.counts == {"images": 2, "categories": 3, "annotations": 2}


@pytest.mark.parametrize(
    ("dicts", "words"),
    [
        ([record(), "a.png"], "its entry 1 is no dict: <class 'str'>. Each dict needs file_name"),
        ([{**record(), "annotations": 5}], "annotations of dict 0 are no list of dicts. Each"),
        ([{**record(), "annotations": [5]}], "annotations of dict 0 are no list of dicts. Each"),
    ],
)
def test_what_is_no_list_of_dicts(dicts, words):
    with pytest.raises(DatasetError, match=words):
        check_train_dicts(dicts, CLASSES)


def test_a_box_that_is_a_number():
    assert kinds(record(bbox=5)) == {"box-format"}
