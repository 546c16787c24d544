import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import gn_det
from gn_det.data import check_labelled_data, labelled_split
from gn_det.data.embedded.photo_digits import split_samples
from gn_det.data.pretraining import moving_digits
from gn_det.data.pretraining.moving_digits import DIRECTIONS, _frames, _make


@pytest.fixture(scope="module")
def cfg():
    cfg = gn_det.get_cfg()
    keys = ["PRETRAIN.DATASET", "moving_digits", "PRETRAIN.CROP", 32]
    cfg.merge_from_list([*keys, "MODEL.CLASSIFIER.NUM_CLASSES", 9])
    return cfg


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(moving_digits, "COUNTS", {"train": 90, "val": 45})
    _make.cache_clear()
    yield
    _make.cache_clear()


def test_clips(cfg):
    check_labelled_data(cfg)
    for split, count in (("train", 90), ("val", 45)):
        data = labelled_split(cfg, split)
        assert len(data) == count
        item = data.mapper(data.records[10])
        assert item["label"] == 1
        assert (item["image"].shape, item["image"].dtype) == ((3, 8, 32, 32), torch.uint8)
        assert torch.equal(item["image"][0], item["image"][2])
        assert np.bincount(data.records.labels).tolist() == [count // 9] * 9


def test_always_the_same(cfg):
    first = labelled_split(cfg, "train").records.images
    _make.cache_clear()
    torch.manual_seed(5)
    assert torch.equal(labelled_split(cfg, "train").records.images, first)
    assert not torch.equal(labelled_split(cfg, "val").records.images[:45], first[:45])


def test_the_class_is_the_direction():
    clips, labels = _make("train")
    speeds = set()
    for clip, label in zip(clips.numpy(), labels.tolist()):
        # moved back by its class's direction, at one of the speeds, each frame is the first
        fits = []
        for speed in (1, 2):
            step = speed * np.array(DIRECTIONS[label])
            back = [np.roll(frame, tuple(-t * step), (0, 1)) for t, frame in enumerate(clip)]
            fits += [speed] * all((frame == clip[0]).all() for frame in back)
        assert fits
        if label:
            speeds |= set(fits)
            assert not (clip[1] == clip[0]).all()
    assert speeds == {1, 2}


def test_what_leaves_comes_in_on_the_other_side():
    picture = np.arange(1, 257, dtype=np.int64).clip(0, 255).astype(np.uint8).reshape(16, 16)
    (frame,) = _frames(picture, np.array([[30, 8]]))
    assert (frame[30:, 8:24] == picture[:2]).all()
    assert (frame[:14, 8:24] == picture[2:]).all()
    assert frame.sum() == picture.sum(dtype=np.int64)


def test_no_sample_is_in_both_splits(monkeypatch):
    """Each sample of a split is one of its own, in every picture that is drawn."""
    seen = {}
    for split in ("train", "val"):
        drawn = []

        def watched(picture, path, drawn=drawn):
            drawn.append(picture.tobytes())
            return _frames(picture, path)

        monkeypatch.setattr(moving_digits, "_frames", watched)
        _make.cache_clear()
        _make(split)
        seen[split] = set(drawn)
    assert seen["train"]
    assert not seen["train"] & seen["val"]
    parts = split_samples(load_digits().target, moving_digits.SEED)
    assert not set(parts["train"]) & set(parts["val"])


def test_enlarged_to_crop(cfg):
    large = cfg.clone()
    large.PRETRAIN.CROP = 48
    data = labelled_split(large, "val")
    assert data.mapper(data.records[0])["image"].shape == (3, 8, 48, 48)
