"""The mapper gives what Detectron2's gives for 8 bits, and for 16 bits of the same picture."""

import copy

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper, get_detection_dataset_dicts
from detectron2.data import transforms as T
from PIL import Image

from gn_det.config import ConfigError
from gn_det.data import (
    DatasetError,
    WindowedMapper,
    build_train_stream,
    read_image,
    seed_everything,
)
from gn_det.engine import load_runnable_config


@pytest.fixture(scope="module")
def dicts(digits):
    return get_detection_dataset_dicts(digits[0])[:4]


@pytest.fixture(scope="module")
def deep_dicts(dicts, tmp_path_factory):
    """The same pictures in 16 bits."""
    folder = tmp_path_factory.mktemp("deep")
    deep = copy.deepcopy(dicts)
    for index, record in enumerate(deep):
        image = read_image(record["file_name"], "BGR")
        record["file_name"] = str(folder / f"{index}.png")
        cv2.imwrite(record["file_name"], image.astype(np.uint16) * 257)
    return deep


@pytest.fixture
def make_cfg(digits_options):
    def make(*opts):
        sizes = ["INPUT.MIN_SIZE_TRAIN", (40, 64, 120)]
        return load_runnable_config("mask_rcnn_R50_gn_all.yaml", [*digits_options, *sizes, *opts])

    return make


def assert_same(ours, theirs):
    assert ours.keys() - {"file_name"} == theirs.keys() - {"file_name"}
    for key in ours.keys() - {"file_name", "instances"}:
        same = torch.equal if isinstance(ours[key], torch.Tensor) else lambda a, b: a == b
        assert same(ours[key], theirs[key]), key
    if "instances" in ours:
        ours, theirs = ours["instances"], theirs["instances"]
        assert torch.equal(ours.gt_boxes.tensor, theirs.gt_boxes.tensor)
        assert torch.equal(ours.gt_classes, theirs.gt_classes)
        if ours.has("gt_masks"):
            assert torch.equal(ours.gt_masks.tensor, theirs.gt_masks.tensor)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("format", ["BGR", "RGB", "L"])
def test_same_as_detectron2s(make_cfg, dicts, deep_dicts, is_train, masks, format):
    cfg = make_cfg("INPUT.FORMAT", format, "MODEL.MASK_ON", masks)
    theirs = DatasetMapper(cfg, is_train)
    ours = WindowedMapper(cfg, is_train)
    cfg.INPUT.WINDOW = (0, 65535)
    with_window = WindowedMapper(cfg, is_train)
    for index, (record, deep) in enumerate(zip(dicts, deep_dicts)):
        before = copy.deepcopy(record)
        results = []
        for mapper, one in ((theirs, record), (ours, record), (with_window, deep)):
            seed_everything(index)
            results.append(mapper(one))
        assert record == before
        assert results[0]["image"].dtype == torch.uint8
        assert ("instances" in results[0]) == is_train
        assert_same(results[1], results[0])
        if format != "L":  # Pillow's grey is that of colours, here of two
            assert_same(results[2], results[0])


def test_labels_and_proposals(make_cfg, dicts, tmp_path):
    labels = np.random.default_rng(0).integers(0, 9, (96, 96), dtype=np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    record = {
        **dicts[0],
        "sem_seg_file_name": str(tmp_path / "labels.png"),
        "proposal_boxes": np.array([[1.0, 2, 30, 40], [5, 5, 50, 60]]),
        "proposal_objectness_logits": np.array([2.0, 1.0]),
        "proposal_bbox_mode": dicts[0]["annotations"][0]["bbox_mode"].XYXY_ABS,
    }
    cfg = make_cfg("MODEL.LOAD_PROPOSALS", True)
    found = []
    for mapper in (DatasetMapper(cfg, True), WindowedMapper(cfg, True)):
        seed_everything(0)
        found.append(mapper(record))
    theirs, ours = found
    assert torch.equal(ours.pop("sem_seg"), theirs.pop("sem_seg"))
    ours_boxes, boxes = (r.pop("proposals").proposal_boxes.tensor for r in (ours, theirs))
    assert torch.equal(ours_boxes, boxes)
    assert_same(ours, theirs)


def test_augmentations_of_ones_own(dicts, deep_dicts):
    steps = [T.RandomBrightness(0.5, 1.5), T.RandomContrast(0.5, 1.5), T.Resize((50, 70))]
    theirs = DatasetMapper(is_train=True, augmentations=steps, image_format="RGB")
    ours = WindowedMapper(
        is_train=True, augmentations=steps, image_format="RGB", window=["0%", 65535]
    )
    seed_everything(0)
    expected = theirs(dicts[0])["image"]
    seed_everything(0)
    found = ours(deep_dicts[0])["image"]
    assert found.dtype == torch.uint8
    if read_image(dicts[0]["file_name"], "RGB").min() == 0:
        assert torch.equal(found, expected)
    assert found.shape == expected.shape == (3, 50, 70)


def test_the_same_batches_of_a_training(make_cfg, dicts, deep_dicts):
    plain, deep = make_cfg(), make_cfg("INPUT.WINDOW", "(0, 65535)")
    for stream in (
        streams := [build_train_stream(plain, dicts), build_train_stream(deep, deep_dicts)]
    ):
        stream.seek(3, 1)
    for _, ours, theirs in zip(range(3), *map(iter, streams)):
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)


def test_a_mapper_of_ones_own(make_cfg, deep_dicts, caplog):
    cfg = make_cfg("INPUT.WINDOW", "(0, 65535)")
    build_train_stream(cfg, deep_dicts, WindowedMapper(cfg))
    assert "read_image" not in caplog.text
    stream = build_train_stream(cfg, deep_dicts, lambda record: record["file_name"])
    assert "INPUT.WINDOW is set, but the mapper is one of your own" in caplog.text
    assert "gn_det.data.read_image(file_name, cfg.INPUT.FORMAT, cfg.INPUT.WINDOW)" in caplog.text
    assert next(iter(stream))[0].endswith(".png")


def test_without_a_window(make_cfg, deep_dicts):
    with pytest.raises(DatasetError, match=r"0\.png has more than 8 bits"):
        WindowedMapper(make_cfg(), is_train=True)(deep_dicts[0])
    with pytest.raises(ConfigError, match=r"INPUT.WINDOW is \(9, 1\)"):
        WindowedMapper(is_train=True, augmentations=[], image_format="L", window=[9, 1])


def test_yuv_in_single_precision(make_cfg, dicts):
    cfg = make_cfg("INPUT.FORMAT", "YUV-BT.601")
    ours, theirs = (m(cfg, False)(dicts[0])["image"] for m in (WindowedMapper, DatasetMapper))
    assert (ours.dtype, theirs.dtype) == (torch.float32, torch.float64)
    assert torch.allclose(ours, theirs.float(), atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_an_image_that_nothing_changes_can_be_written_to(dicts, make_cfg):
    options = ["INPUT.FORMAT", "L", "INPUT.MIN_SIZE_TEST", 0]
    mapper = WindowedMapper(make_cfg(*options), is_train=False)
    image = mapper(dicts[0])["image"]
    image += 1
    assert not torch.equal(image, mapper(dicts[0])["image"])
