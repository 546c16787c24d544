import shutil

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import read_image
from PIL import Image

import gn_det
from gn_det.data import DatasetError
from gn_det.data.pretraining.image_folder import check_image_folders, image_folder
from gn_det.data.pretraining.transforms import eval_transform


@pytest.fixture
def root(tmp_path, make_image_folder):
    return make_image_folder(tmp_path / "images")


def _cfg(root, *options):
    cfg = gn_det.get_cfg()
    cfg.merge_from_list(
        ["PRETRAIN.ROOT", str(root), "MODEL.CLASSIFIER.NUM_CLASSES", 3, "PRETRAIN.CROP", 16,
         "PRETRAIN.RESIZE", 20, *options]
    )  # fmt: skip
    return cfg


def _message(cfg, **kwargs):
    with pytest.raises(DatasetError) as error:
        check_image_folders(cfg, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_good_folders(root):
    check_image_folders(_cfg(root))


@pytest.mark.parametrize(("order", "red"), [("BGR", 2), ("RGB", 0)])
@pytest.mark.parametrize("split", ["train", "val"])
def test_items(root, order, red, split):
    plain = ["PRETRAIN.COLOR_JITTER", 0.0, "PRETRAIN.LIGHTING", 0.0, "INPUT.FORMAT", order]
    data = image_folder(_cfg(root, *plain), split)
    assert data.num_classes == 3
    assert len(data) == (6 if split == "train" else 3)
    record = data.records[len(data) - 1]
    assert record["file_name"].startswith(str(root / split / "red"))
    item = data.mapper(record)
    assert item["label"] == 2
    assert item["image"].shape == (3, 16, 16)
    assert item["image"].dtype == torch.uint8
    means = item["image"].float().mean(dim=(1, 2))
    assert means.argmax() == red
    assert means[red] == pytest.approx(250, abs=3)


def test_below_the_folder_of_datasets(root, monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root.parent))
    monkeypatch.chdir(tmp_path.parent)
    check_image_folders(_cfg("images"))
    assert len(image_folder(_cfg("images"), "val")) == 3
    message = _message(_cfg("imagenet"))
    assert "there is no folder imagenet and none" in message
    assert str(root.parent / "imagenet") in message
    assert "train/CLASS/IMAGE" in message


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_split(root, split):
    shutil.rmtree(root / split)
    assert f"There is no folder {root / split}" in _message(_cfg(root))


def test_evaluation_needs_no_training_images(root):
    shutil.rmtree(root / "train")
    check_image_folders(_cfg(root), training=False)


def test_classes_that_differ(root):
    (root / "val" / "red").rename(root / "val" / "rot")
    message = _message(_cfg(root))
    assert "1 class (red) in train alone, 1 class (rot) in val alone" in message
    shutil.rmtree(root / "val" / "rot")
    assert "1 class (red) in train alone, 0 classes in val alone" in _message(_cfg(root))


def test_images_without_folders(root):
    for folder in (root / "val").iterdir():
        for path in folder.iterdir():
            path.rename(root / "val" / f"{folder.name}.png")
        folder.rmdir()
    message = _message(_cfg(root))
    assert f"{root / 'val'} has 3 files and no folder" in message
    assert "development kit" in message


def test_an_empty_class(root):
    for path in (root / "train" / "green").iterdir():
        path.rename(path.with_suffix(".txt"))
    message = _message(_cfg(root))
    assert f"{root / 'train'}: 1 class (green) without an image. Images end in .jpg" in message


def test_another_number_of_classes(root):
    message = _message(_cfg(root, "MODEL.CLASSIFIER.NUM_CLASSES", 1000))
    assert "has 3 classes (blue, green, red), but MODEL.CLASSIFIER.NUM_CLASSES is 1000" in message
    assert message.endswith("Set it to 3.")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "it is empty"), (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
     (b"hello, world", "no format that Pillow knows"), (None, "truncated")],
)  # fmt: skip
def test_an_unreadable_image(root, content, words):
    path = root / "train" / "green" / "1.png"
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    message = _message(_cfg(root))
    assert f"of 6 images that were tried, 1 cannot be read, such as {path}: " in message
    assert words in message
    data = image_folder(_cfg(root), "train")
    with pytest.raises(DatasetError) as error:
        data.mapper(data.records[3])
    assert str(error.value).startswith(f"{path} cannot be read as an image: ")
    assert "\n" not in str(error.value)
    assert words in str(error.value)


def test_grey_and_transparent_images(root):
    Image.new("L", (20, 30), 90).save(root / "train" / "green" / "0.png")
    Image.new("RGBA", (20, 30), (9, 8, 7, 50)).save(root / "train" / "green" / "1.png")
    check_image_folders(_cfg(root))
    data = image_folder(_cfg(root), "train")
    assert [data.mapper(data.records[i])["image"].shape for i in (2, 3)] == [(3, 16, 16)] * 2


def _save(root, image, **kwargs):
    path = root / "val" / "red" / "0.png"
    assert path.exists()
    image.save(path, **kwargs)


def test_an_image_is_turned_as_in_detection(root):
    exif = Image.Exif()
    exif[274] = 6  # taken upright: its first row is the right side
    ramp = np.zeros((40, 60, 3), dtype=np.uint8)
    ramp[:, :, 0] = np.arange(60) * 4
    _save(root, Image.fromarray(ramp), exif=exif)
    cfg = _cfg(root, "INPUT.FORMAT", "RGB")
    data = image_folder(cfg, "val")
    (record,) = [r for r in data.records if r["file_name"].endswith("red/0.png")]
    turned = Image.fromarray(read_image(record["file_name"], "RGB"))
    assert turned.size == (40, 60)
    assert torch.equal(data.mapper(record)["image"], eval_transform(cfg)(turned))


def test_more_than_8_bits(root, caplog):
    values = np.full((40, 40), 40000, dtype=np.uint16)
    values[:, ::8] = 51000
    _save(root, Image.fromarray(values))
    message = _message(_cfg(root))
    assert "0.png (mode I;16, values 40000 to 51000" in message
    assert 'INPUT.WINDOW "[40000, 51000]"' in message
    data = image_folder(_cfg(root), "val")
    (record,) = [r for r in data.records if r["file_name"].endswith("red/0.png")]
    with pytest.raises(DatasetError, match=r"0\.png has more than 8 bits a channel \(mode I;16\)"):
        data.mapper(record)
    cfg = _cfg(root, "INPUT.WINDOW", [0, 51000])
    check_image_folders(cfg)
    assert "nearly all pixels" not in caplog.text
    assert "2 of 3 images that were read have 8 bits" in caplog.text  # those of val
    eight = Image.fromarray((values / 200).astype(np.uint8)).convert("RGB")
    assert torch.equal(image_folder(cfg, "val").mapper(record)["image"], eval_transform(cfg)(eight))
    check_image_folders(_cfg(root, "INPUT.WINDOW", [0, 255]))
    assert "INPUT.WINDOW [0, 255] makes nearly all pixels 255 to 255" in caplog.text


@pytest.mark.parametrize("split", ["train", "val"])
def test_one_channel(root, split):
    data = image_folder(_cfg(root, "INPUT.FORMAT", "L"), split)
    for record in data.records:
        assert data.mapper(record)["image"].shape == (1, 16, 16)
    grey = Image.open(record["file_name"]).convert("L")
    if split == "val":
        item = data.mapper(record)["image"]
        assert torch.equal(item, eval_transform(_cfg(root, "INPUT.FORMAT", "L"))(grey))


def test_a_crop_larger_than_the_image(root):
    message = _message(_cfg(root, "PRETRAIN.CROP", 320, "PRETRAIN.RESIZE", 256))
    assert "PRETRAIN.RESIZE 256 is less than PRETRAIN.CROP 320" in message
    check_image_folders(_cfg(root, "PRETRAIN.CROP", 320, "PRETRAIN.RESIZE", 0))
