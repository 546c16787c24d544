import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

import gn_det
from gn_det.data import DatasetError, check_datasets, check_images


@pytest.fixture
def coco(tmp_path):
    """Return a function that registers a dataset of one image and ``classes`` classes."""
    names = []

    def make(name="checks_coco", classes=3, json_there=True, folder_there=True):
        json_file, folder = tmp_path / f"{name}.json", tmp_path / "images"
        if json_there:
            json_file.write_text(
                json.dumps(
                    {
                        "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 8}],
                        "categories": [{"id": i, "name": f"c{i}"} for i in range(classes)],
                        "annotations": [],
                    }
                )
            )
        if folder_there:
            folder.mkdir(exist_ok=True)
        register_coco_instances(name, {}, str(json_file), str(folder))
        names.append(name)
        return name

    yield make
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def cfg_for(*names, num_classes=3):
    cfg = gn_det.get_cfg()
    cfg.DATASETS.TRAIN = names
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    return cfg


def test_good_dataset_is_silent(coco):
    check_datasets(cfg_for(coco()))


def test_builtin_dataset_is_built(digits):
    cfg = cfg_for(digits[0], num_classes=10)
    cfg.DATASETS.TEST = (digits[1],)
    check_datasets(cfg)


def test_empty_train_set(coco):
    with pytest.raises(DatasetError, match=r"DATASETS\.TRAIN is empty"):
        check_datasets(cfg_for())
    check_datasets(cfg_for(), training=False)


def test_unknown_name_says_which_was_meant():
    with pytest.raises(DatasetError, match=r"DATASETS\.TRAIN coco_2017_trian: .*coco_2017_train"):
        check_datasets(cfg_for("coco_2017_trian"))


def test_missing_json(coco):
    name = coco(json_there=False)
    with pytest.raises(DatasetError, match=rf"{name}: its annotations .*{name}\.json are missing"):
        check_datasets(cfg_for(name))


def test_missing_folder(coco):
    with pytest.raises(DatasetError, match=r"its folder of images .*images is missing"):
        check_datasets(cfg_for(coco(folder_there=False)))


def test_missing_coco_says_variable_and_layout(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(DatasetError) as error:
        check_datasets(cfg_for("coco_2017_train", num_classes=80))
    assert "DETECTRON2_DATASETS" in str(error.value)
    assert f"{tmp_path}/coco/annotations/instances_train2017.json" in str(error.value)


def test_too_few_classes_are_refused(coco):
    with pytest.raises(DatasetError, match=r"5 classes \(c0, .*NUM_CLASSES is 4. Set .* 5\."):
        check_datasets(cfg_for(coco(classes=5), num_classes=4))


def test_too_many_classes_are_warned_of(coco, caplog):
    check_datasets(cfg_for(coco(classes=5), num_classes=80))
    assert "5 classes (c0, c1, c2, c3, c4), but MODEL.ROI_HEADS.NUM_CLASSES is 80" in caplog.text


def test_number_of_classes_of_retinanet(coco):
    cfg = cfg_for(coco(classes=5), num_classes=80)
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.RETINANET.NUM_CLASSES = 5
    check_datasets(cfg)
    cfg.MODEL.RETINANET.NUM_CLASSES = 4
    with pytest.raises(DatasetError, match=r"MODEL\.RETINANET\.NUM_CLASSES is 4"):
        check_datasets(cfg)


def test_every_problem_is_named_at_once(coco):
    name = coco(classes=5)
    with pytest.raises(DatasetError) as error:
        check_datasets(cfg_for(name, "nowhere", num_classes=3))
    assert name in str(error.value)
    assert "nowhere" in str(error.value)


def test_missing_images(tmp_path):
    (tmp_path / "a.png").touch()
    good = [{"file_name": str(tmp_path / "a.png")}]
    check_images(good, "DATASETS.TRAIN x")
    bad = [{"file_name": str(tmp_path / "b.png")}, {"file_name": str(tmp_path / "no" / "c.png")}]
    with pytest.raises(DatasetError, match=r"DATASETS.TRAIN x: 2 of 3 images are missing") as error:
        check_images(good + bad, "DATASETS.TRAIN x")
    assert str(tmp_path / "b.png") in str(error.value)
