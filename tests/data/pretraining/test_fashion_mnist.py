import numpy as np
import pytest
import torch

import gn_det
from gn_det.config import ConfigError
from gn_det.data import (
    DatasetError,
    check_labelled_data,
    kept_rng,
    labelled_split,
    seed_everything,
)
from gn_det.data.pretraining import fashion_mnist
from gn_det.data.pretraining.fashion_mnist import FILES, read_idx


@pytest.fixture
def root(fashion_folder, tmp_path, monkeypatch):
    """Four files, those of train gzipped, and no Debian package."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN", str(tmp_path / "debian"))
    return fashion_folder


def _cfg(root, *options):
    cfg = gn_det.get_cfg()
    keys = ["PRETRAIN.DATASET", "fashion_mnist", "PRETRAIN.ROOT", str(root), "PRETRAIN.CROP", 28]
    cfg.merge_from_list([*keys, "MODEL.CLASSIFIER.NUM_CLASSES", 10, *options])
    return cfg


def _item(data, index):
    return data.mapper(data.records[index])


def test_val_is_what_the_files_hold(root, fashion_images):
    check_labelled_data(_cfg(root))
    data = labelled_split(_cfg(root), "val")
    assert len(data) == 10
    for index in range(10):
        item = _item(data, index)
        assert item["label"] == index
        assert item["image"].dtype == torch.uint8
        expected = torch.from_numpy(fashion_images["val"][index]).expand(3, 28, 28)
        assert torch.equal(item["image"], expected)


def test_enlarged_to_crop(root, fashion_images):
    item = _item(labelled_split(_cfg(root, "PRETRAIN.CROP", 56), "val"), 3)
    assert item["image"].shape == (3, 56, 56)
    small = torch.from_numpy(fashion_images["val"][3]).float()
    large = item["image"].float().mean(0)
    assert torch.corrcoef(torch.stack([large[::2, ::2].flatten(), small.flatten()]))[0, 1] > 0.7
    assert large.mean() == pytest.approx(small.mean().item(), abs=0.6)


def test_training_images_are_moved_and_flipped(root, fashion_images):
    data = labelled_split(_cfg(root), "train")
    original = torch.from_numpy(fashion_images["train"][4])
    padded = torch.nn.functional.pad(original, (2, 2, 2, 2))
    possible = {}
    for top in range(5):
        for left in range(5):
            window = padded[top : top + 28, left : left + 28]
            possible[(top, left, False)] = window
            possible[(top, left, True)] = window.flip(-1)
    seen = set()
    with kept_rng():
        for seed in range(400):
            seed_everything(seed)
            image = _item(data, 4)["image"]
            seen |= {how for how, window in possible.items() if torch.equal(window, image[0])}
            assert torch.equal(image[0], image[2])
        assert seen == set(possible)
        seed_everything(3)
        again = _item(data, 4)["image"]
        seed_everything(3)
        assert torch.equal(_item(data, 4)["image"], again)


@pytest.mark.parametrize(("flip", "ways"), [("none", 25), ("vertical", 50)])
def test_flip_is_the_configs(root, flip, ways):
    data = labelled_split(_cfg(root, "INPUT.RANDOM_FLIP", flip), "train")
    with kept_rng():
        seed_everything(1)
        assert len({_item(data, 0)["image"].numpy().tobytes() for _ in range(500)}) == ways


def test_debians_place_comes_after_root(root, monkeypatch, tmp_path):
    monkeypatch.setattr(fashion_mnist, "DEBIAN", str(root))
    assert len(labelled_split(_cfg("imagenet"), "train")) == 20
    empty = tmp_path / "empty"
    empty.mkdir()
    assert len(labelled_split(_cfg(empty), "val")) == 10


def test_missing_files_are_asked_for(root, tmp_path):
    (root / f"{FILES['train'][1]}.gz").unlink()
    with pytest.raises(DatasetError) as error:
        labelled_split(_cfg(root), "train")
    message = str(error.value)
    assert f"train-labels-idx1-ubyte are not in {root} or {tmp_path / 'debian'}" in message
    assert "apt install dataset-fashion-mnist" in message
    assert "t10k-images-idx3-ubyte.gz" in message
    with pytest.raises(DatasetError, match="apt install"):
        check_labelled_data(_cfg(root))
    check_labelled_data(_cfg(root), training=False)


def test_another_number_of_classes(root):
    with pytest.raises(DatasetError, match=r"has 10 classes, but .*is 1000\. Set it to 10\."):
        check_labelled_data(_cfg(root, "MODEL.CLASSIFIER.NUM_CLASSES", 1000))
    with pytest.raises(ConfigError, match="TRAIN_IMAGES is 21: fashion_mnist has 20"):
        check_labelled_data(_cfg(root, "PRETRAIN.TRAIN_IMAGES", 21))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda data, idx: data[:-1],
            "10 bytes of data for its shape (10,), but has 9",
        ),
        (
            lambda data, idx: data + b"0",
            "10 bytes of data for its shape (10,), but has 11",
        ),
        (lambda data, idx: data[:6], "is not an idx file of bytes"),
        (lambda data, idx: b"", "is not an idx file of bytes"),
        (lambda data, idx: b"<html>" + data, "is not an idx file of bytes: it begins with b'<htm'"),
        (lambda data, idx: data[:2] + b"\x0d" + data[3:], "is not an idx file of bytes"),
        (
            lambda data, idx: idx(np.arange(9)),
            "images of shape (10, 28, 28) and labels of shape (9,)",
        ),
        (lambda data, idx: idx(np.arange(10) + 1), "there is a label 10, above 9"),
        (lambda data, idx: idx(np.zeros((10, 1))), "labels of shape (10, 1)"),
    ],
)
def test_damaged_labels(root, idx_bytes, damage, words):
    path = root / FILES["val"][1]
    path.write_bytes(damage(path.read_bytes(), idx_bytes))
    with pytest.raises(DatasetError) as error:
        check_labelled_data(_cfg(root))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-40], lambda data: b"no gzip", lambda data: data[:99] + data[90:]]
)
def test_damaged_gzip(root, damage):
    path = root / f"{FILES['train'][0]}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetError, match=r"ubyte\.gz cannot be read: .*Get it again"):
        read_idx(path)
