import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

import gn_det
from gn_det.data import check_labelled_data, kept_rng, labelled_split, seed_everything
from gn_det.data.pretraining import digit_crops


@pytest.fixture
def cfg(digits, monkeypatch):
    monkeypatch.setattr(digit_crops, "PREFIX", digits[0].rpartition("_")[0])
    cfg = gn_det.get_cfg()
    keys = ["PRETRAIN.DATASET", "photo_digit_crops", "PRETRAIN.CROP", 40, "INPUT.FORMAT", "RGB"]
    cfg.merge_from_list([*keys, "MODEL.CLASSIFIER.NUM_CLASSES", 10])
    return cfg


@pytest.mark.parametrize("split", [0, 1])
def test_every_object_is_there_with_its_label(cfg, digits, split):
    check_labelled_data(cfg)
    data = labelled_split(cfg, ("train", "val")[split])
    objects = [a for record in DatasetCatalog.get(digits[split]) for a in record["annotations"]]
    labels = [data.mapper(data.records[index])["label"] for index in range(len(data))]
    assert labels == [a["category_id"] for a in objects]
    assert data.num_classes == 10
    item = data.mapper(data.records[0])
    assert (item["image"].shape, item["image"].dtype) == ((3, 40, 40), torch.uint8)


def test_val_shows_the_middle_of_the_box(cfg, digits):
    data = labelled_split(cfg, "val")
    record = DatasetCatalog.get(digits[1])[0]
    scene = np.asarray(Image.open(record["file_name"]).convert("RGB")).astype(float)
    for index, annotation in enumerate(record["annotations"]):
        left, top, width, height = annotation["bbox"]
        x, y = left + width / 2, top + height / 2
        pixels = data.mapper(data.records[index])["image"].float()
        # a sixth of the crop, and the same part of the scene
        r = max(width, height) * 1.35 / 12
        part = scene[round(y - r) : round(y + r), round(x - r) : round(x + r)].mean((0, 1))
        assert pixels[:, 17:23, 17:23].mean((1, 2)).tolist() == pytest.approx(part, abs=25)


def test_beyond_the_scene_its_edge_goes_on(cfg, digits, monkeypatch, tmp_path):
    path = tmp_path / "scene.png"
    columns = np.broadcast_to(np.arange(96, dtype=np.uint8)[None, :, None], (96, 96, 3))
    Image.fromarray(np.ascontiguousarray(columns)).save(path)
    corner = {"bbox": [0, 30, 20, 40], "category_id": 7}
    record = {"file_name": str(path), "annotations": [corner]}
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: [record])
    (image,), labels = digit_crops._cut_out("made", str(tmp_path), 60)
    assert labels.tolist() == [7]
    # the box's middle is at 10, the crop 60 wide: from -20 to 40
    expected = np.clip(np.arange(-20, 40), 0, None)
    assert np.abs(image[0, 30].numpy().astype(int) - expected).max() <= 1


def test_training_varies_place_and_scale_and_never_mirrors(cfg):
    data = labelled_split(cfg, "train")
    record = {"image": torch.arange(50).view(1, 1, 50).expand(3, 50, 50).byte(), "label": 1}
    starts, widths = set(), set()
    with kept_rng():
        seed_everything(0)
        for _ in range(200):
            row = data.mapper(record)["image"][0, 0].int()
            assert (row.diff() >= 0).all()
            starts.add(row[0].item())
            widths.add((row[-1] - row[0] + 1).item())
    assert min(starts) <= 1
    assert max(starts) >= 8
    assert min(widths) <= 41
    assert max(widths) >= 49


def test_channels_are_the_configs(cfg):
    data = labelled_split(cfg, "val")
    rgb = data.mapper(data.records[0])["image"]
    cfg.INPUT.FORMAT = "BGR"
    data = labelled_split(cfg, "val")
    assert torch.equal(data.mapper(data.records[0])["image"], rgb.flip(0))
