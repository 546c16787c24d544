import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BoxMode

import gn_det
from gn_det.data import build_photo_digits, ensure_dataset, register_photo_digits
from gn_det.data.embedded.photo_digits import FOLDER

TINY = {"num_train": 3, "num_val": 2, "size": 96, "seed": 1}


@pytest.fixture
def tiny(tmp_path, forget):
    return register_photo_digits("tiny_digits", tmp_path / "data", **TINY)


def test_importing_registers_and_builds_nothing(tmp_path):
    code = (
        "import sys, gn_det; from detectron2.data import DatasetCatalog as d; "
        "assert {'photo_digits_train', 'photo_digits_val'} <= set(d.list()); "
        "assert not {'sklearn', 'skimage'} & set(sys.modules)"
    )
    path = str(Path(gn_det.__file__).parents[1])
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r}); {code}"],
        cwd=tmp_path,
        check=True,
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", ["train", "val"])
def test_metadata_follows_the_environment(split, tmp_path, monkeypatch):
    metadata = MetadataCatalog.get(f"photo_digits_{split}")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert metadata.json_file == str(tmp_path / FOLDER / f"{split}.json")
    assert metadata.image_root == str(tmp_path / FOLDER / split)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/sets")
    assert metadata.image_root == str(tmp_path / "sets" / FOLDER / split)
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert metadata.json_file == f"datasets/{FOLDER}/{split}.json"
    assert metadata.get("json_file") == metadata.as_dict()["json_file"] == metadata.json_file
    assert metadata.evaluator_type == "coco"
    assert metadata.thing_classes == list("0123456789")
    assert metadata.thing_dataset_id_to_contiguous_id == {i + 1: i for i in range(10)}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("position", "count"), [(0, 3), (1, 2)])
def test_loads_in_detectron2s_format(tiny, position, count):
    records = DatasetCatalog.get(tiny[position])
    assert len(records) == count
    metadata = MetadataCatalog.get(tiny[position])
    assert Path(metadata.json_file).is_file()
    for record in records:
        assert Path(record["file_name"]).parent == Path(metadata.image_root)
        assert (record["height"], record["width"]) == (96, 96)
        assert 2 <= len(record["annotations"]) <= 7
        for annotation in record["annotations"]:
            assert annotation["bbox_mode"] == BoxMode.XYWH_ABS
            assert 0 <= annotation["category_id"] < 10
    assert [r["image_id"] for r in DatasetCatalog.get(tiny[position])] == list(range(1, count + 1))


def test_goes_through_detectron2s_mapper(tiny):
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MASK_FORMAT = "bitmask"  # the masks are RLE
    cfg.INPUT.MIN_SIZE_TRAIN = (96,)
    cfg.INPUT.RANDOM_FLIP = "none"
    record = DatasetCatalog.get(tiny[0])[0]
    sample = DatasetMapper(cfg, is_train=True)(record)
    instances = sample["instances"]
    assert len(instances) == len(record["annotations"])
    boxes = instances.gt_masks.get_bounding_boxes().tensor
    assert (boxes - instances.gt_boxes.tensor).abs().max() == 0


def test_evaluator_finds_the_json_before_any_loader_ran(tiny, tmp_path):
    ensure_dataset(tiny[1])
    COCOEvaluator(tiny[1], output_dir=str(tmp_path / "output"))
    # Detectron2 converts the dataset to a json of its own where it finds none
    assert not (tmp_path / "output").exists()


def test_ensure_dataset_builds_ours_alone(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ensure_dataset("coco_2017_val")
    ensure_dataset("nobody's")
    assert list(tmp_path.iterdir()) == []
    ensure_dataset(tiny[0])
    folder = tmp_path / "data" / FOLDER
    assert folder.is_dir()
    assert build_photo_digits(tmp_path / "data", **TINY) == folder  # with these very arguments
    ensure_dataset(tiny[0])


def test_registering_again_changes_nothing(tiny, tmp_path):
    metadata = MetadataCatalog.get(tiny[0])
    assert register_photo_digits("tiny_digits", tmp_path / "data", **TINY) == tiny
    assert MetadataCatalog.get(tiny[0]) is metadata
    assert register_photo_digits() == ("photo_digits_train", "photo_digits_val")


def test_a_name_stands_for_one_dataset(tiny, tmp_path):
    with pytest.raises(ValueError, match="tiny_digits_train is registered already"):
        register_photo_digits("tiny_digits", tmp_path / "data", **{**TINY, "seed": 2})
    with pytest.raises(ValueError, match="tiny_digits_train is registered already"):
        register_photo_digits("tiny_digits", tmp_path / "elsewhere", **TINY)


def test_foreign_name_is_refused_whole(forget, tmp_path):
    DatasetCatalog.register("their_val", list)
    with pytest.raises(ValueError, match="their_val is registered already, of another kind"):
        register_photo_digits("their", tmp_path, **TINY)
    assert "their_train" not in DatasetCatalog.list()


def test_bad_arguments_are_found_when_registering(forget, tmp_path):
    with pytest.raises(ValueError, match="size must be a whole number of at least 64, got 8"):
        register_photo_digits("bad", tmp_path, size=8)
    with pytest.raises(TypeError, match="knows no sise; it takes num_train, num_val, size, seed"):
        register_photo_digits("bad", tmp_path, sise=96)
    assert not [name for name in DatasetCatalog.list() if name.startswith("bad")]
