import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from gn_det.data import DatasetError, write_coco_json
from gn_det.data.as_coco import check_dicts

NAME = "as_coco_dicts"


@pytest.fixture
def dicts():
    """One image with a box and a crowd, registered with the names of two classes."""
    box = {"bbox": [1, 1, 5, 4], "bbox_mode": BoxMode.XYXY_ABS}
    dicts = [
        {
            "file_name": "images/a.png",
            "image_id": 7,
            "height": 8,
            "width": 9,
            "annotations": [{**box, "category_id": 1}, {**box, "category_id": 0, "iscrowd": 1}],
        }
    ]
    DatasetCatalog.register(NAME, lambda: dicts)
    MetadataCatalog.get(NAME).thing_classes = ["cat", "dog"]
    yield dicts
    DatasetCatalog.remove(NAME)
    MetadataCatalog.pop(NAME, None)


def test_written_in_cocos_format(dicts, tmp_path):
    path = tmp_path / "new" / "x.json"
    write_coco_json(NAME, path)
    content = json.loads(path.read_text())
    assert content["images"] == [{"id": 7, "width": 9, "height": 8, "file_name": "images/a.png"}]
    assert content["categories"] == [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    first, crowd = content["annotations"]
    assert (first["bbox"], first["area"], first["category_id"]) == ([1, 1, 4, 3], 12, 1)
    assert (first["iscrowd"], crowd["iscrowd"]) == (0, 1)


def test_an_older_file_is_not_taken_for_the_truth(dicts, tmp_path):
    path = tmp_path / "x.json"
    write_coco_json(NAME, path)
    del dicts[0]["annotations"][0]
    write_coco_json(NAME, path)
    assert len(json.loads(path.read_text())["annotations"]) == 1


def test_a_disk_s_error_is_not_the_dataset_s(dicts, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_coco_json(NAME, tmp_path / "file" / "x.json")


def test_checked_as_a_json(dicts):
    found = check_dicts(NAME, dicts)
    assert found.path == "its list of dicts"
    assert (found.summary(), found.usable) == ("1 images, 2 annotations, 2 classes", 1)
    assert found.report.counts == {"crowd": 1}
    dicts[0]["annotations"][0]["category_id"] = 2
    assert check_dicts(NAME, dicts).report.counts["class-unknown"] == 1


def test_an_image_without_a_number(dicts):
    del dicts[0]["image_id"]
    with pytest.raises(DatasetError, match=f"{NAME}: its dict 0 has no image_id. Each dict needs"):
        check_dicts(NAME, dicts)
