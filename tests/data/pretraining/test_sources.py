import pytest

import gn_det
from gn_det.config import ConfigError
from gn_det.data import DatasetError, check_labelled_data, labelled_split


def _cfg(root, *options):
    cfg = gn_det.get_cfg()
    keys = ["PRETRAIN.ROOT", str(root), "MODEL.CLASSIFIER.NUM_CLASSES", 3]
    cfg.merge_from_list([*keys, *options])
    return cfg


@pytest.fixture
def root(tmp_path, make_image_folder):
    return make_image_folder(tmp_path / "colours")


def test_image_folders_are_the_default(root):
    check_labelled_data(_cfg(root))
    assert len(labelled_split(_cfg(root), "train")) == 6
    assert len(labelled_split(_cfg(root), "val")) == 3


def test_some_of_the_training_images(root):
    cfg = _cfg(root, "PRETRAIN.TRAIN_IMAGES", 4)
    few = labelled_split(cfg, "train")
    assert len(few) == 4
    names = [record["file_name"] for record in few.records]
    assert len(set(names)) == 4
    assert [r["file_name"] for r in labelled_split(cfg, "train").records] == names
    assert len(labelled_split(cfg, "val")) == 3


@pytest.mark.parametrize("count", [-1, 7])
def test_more_images_than_there_are(root, count):
    with pytest.raises(ConfigError, match=rf"TRAIN_IMAGES is {count}: image_folder has 6\."):
        labelled_split(_cfg(root, "PRETRAIN.TRAIN_IMAGES", count), "train")


def test_an_unknown_source(root):
    cfg = _cfg(root, "PRETRAIN.DATASET", "mnist")
    with pytest.raises(
        ConfigError, match=r"DATASET is 'mnist'. Choose one of image_folder, fashion"
    ):
        check_labelled_data(cfg)


def test_what_is_wrong_is_one_line(root):
    (root / "train" / "red" / "0.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="of 6 images that were tried, 1 cannot be read"):
        check_labelled_data(_cfg(root))
    check_labelled_data(_cfg(root), training=False)
