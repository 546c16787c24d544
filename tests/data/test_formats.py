import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from gn_det import get_cfg
from gn_det.config import ConfigError
from gn_det.data import (
    FORMATS,
    DatasetError,
    check_datasets,
    register_datasets,
    write_coco_json,
)
from gn_det.data.checks.config_datasets import check_dicts
from gn_det.evaluation.truth import load_truth

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


def register_lines(name, annotations, image_root):
    """Register a format of one line an object: FILE WIDTH HEIGHT LEFT TOP RIGHT BOTTOM CLASS."""

    def load():
        dicts = {}
        for line in Path(annotations).read_text().splitlines():
            file_name, *numbers = line.split()
            width, height, *box, category = map(int, numbers)
            record = dicts.setdefault(
                file_name,
                {
                    "file_name": str(Path(image_root) / file_name),
                    "image_id": len(dicts),
                    "height": height,
                    "width": width,
                    "annotations": [],
                },
            )
            record["annotations"].append(
                {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": category}
            )
        return list(dicts.values())

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        annotations=annotations, image_root=image_root, thing_classes=["cat", "dog", "cow"]
    )


@pytest.mark.usefixtures("forget")
def test_a_new_format_is_one_entry(made, monkeypatch, tmp_path):
    monkeypatch.setitem(FORMATS, "lines", register_lines)
    lines = tmp_path / "own.txt"
    lines.write_text("1.png 64 48 8 8 28 28 0\n2.png 64 48 8 8 28 28 1\n1.png 64 48 1 1 9 9 2\n")
    cfg = get_cfg()
    cfg.DATASETS.REGISTER = (["own", str(lines), str(made.root), "lines"],)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("own",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    for _ in range(2):  # the second time, it is registered already
        register_datasets(cfg)
        check_datasets(cfg)
    truth = load_truth("own")
    assert [a["bbox"] for a in truth.dataset["annotations"]] == [
        [8, 8, 20, 20],
        [1, 1, 8, 8],
        [8, 8, 20, 20],
    ]
    # what is wrong with it is found like in a json
    lines.write_text("1.png 64 48 8 8 8 28 0\n2.png 64 47 8 8 28 28 1\n")
    with pytest.raises(DatasetError, match="2.png: the image and the json differ in size"):
        check_datasets(cfg)
    cfg.DATASETS.REGISTER = (["own", "other.txt", str(made.root), "lines"],)
    with pytest.raises(ConfigError, match=f"another dataset has this name .{lines}"):
        register_datasets(cfg)
