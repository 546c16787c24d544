import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

import gn_det
from gn_det.data import DatasetError, check_datasets, check_images
from gn_det.data.checks import SAMPLE


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


def test_missing_images(made):
    good = [{"file_name": str(made.root / "1.png")}]
    check_images(good, "DATASETS.TRAIN x")
    check_images([], "DATASETS.TRAIN x")
    bad = [{"file_name": str(made.root / "b.png")}, {"file_name": str(made.root / "no" / "c.png")}]
    with pytest.raises(DatasetError, match=r"DATASETS.TRAIN x: 2 of 3 images are missing") as error:
        check_images(good + bad, "DATASETS.TRAIN x")
    assert str(made.root / "b.png") in str(error.value)


def test_images_are_opened(made):
    dicts = [
        {"file_name": str(made.root / f"{i}.png"), "width": 64, "height": 48} for i in (1, 2, 3, 4)
    ]
    check_images(dicts, "DATASETS.TRAIN x")
    dicts[1]["width"] = 48
    (made.root / "4.png").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DatasetError) as error:
        check_images(dicts, "DATASETS.TRAIN x")
    message = str(error.value)
    assert message.startswith("DATASETS.TRAIN x: of 4 images that were opened, 2 are wrong:")
    assert "2.png: the image has another size than the json says: it is 64 x 48" in message
    assert "4.png: the file is no image that can be read: a Git LFS pointer" in message
    assert "tools/check_dataset.py" in message


@pytest.mark.parametrize("count", [SAMPLE, SAMPLE + 1, 5 * SAMPLE + 3])
def test_only_some_of_many_images_are_opened(made, monkeypatch, count):
    opened = []

    def watch(files, workers):
        opened.extend(path for path, _ in files)
        return iter(())

    monkeypatch.setattr("gn_det.data.checks.check_images_of", watch)
    monkeypatch.setattr("gn_det.data.checks.missing_files", lambda paths: iter(()))
    check_images([{"file_name": f"{i}.png"} for i in range(count)], "x")
    assert SAMPLE / 2 < len(opened) <= SAMPLE
    assert opened[0] == "0.png"


@pytest.fixture
def registered(made):
    register_coco_instances("checks_made", {}, str(made.json), str(made.root))
    yield "checks_made"
    DatasetCatalog.remove("checks_made")
    MetadataCatalog.remove("checks_made")


@pytest.mark.parametrize("training", [True, False])
def test_what_is_wrong_in_the_json(made, registered, training):
    made.first["bbox"] = [1, 2, float("nan"), 4]
    made.content["annotations"][1]["category_id"] = 99
    made.write()
    cfg = cfg_for(registered if training else "nowhere")
    cfg.DATASETS.TEST = (registered,)
    with pytest.raises(DatasetError) as error:
        check_datasets(cfg, training=training)
    message = str(error.value)
    assert f"DATASETS.TEST checks_made: {made.json} has" in message
    assert ("DATASETS.TRAIN checks_made" in message) == training
    assert "1 x box-nan: the box has NaN" in message
    assert "(1.png, annotation 1: [1, 2, nan, 4])" in message
    assert "1 x class-unknown" in message
    assert "--fix OUT.json" in message


def test_what_detectron2_bears_is_warned_of(made, registered, caplog):
    made.first["bbox"] = [50, 8, 20, 20]
    made.write()
    check_datasets(cfg_for(registered))
    assert "checks_made: 1 x box-outside: the box reaches out by over a pixel (1.png" in caplog.text


def test_broken_json(made, registered):
    made.json.write_text("[1, 2")
    with pytest.raises(DatasetError, match="DATASETS.TRAIN checks_made: .*made.json: it is a list"):
        check_datasets(cfg_for(registered))


def test_classes_of_test_that_train_lacks(made, registered, coco):
    cfg = cfg_for(registered)
    cfg.DATASETS.TEST = (coco(classes=2),)
    with pytest.raises(DatasetError, match=r"2 x class-not-in-train: .* \(c0\)"):
        check_datasets(cfg)


def test_a_dataset_without_a_json_is_taken_as_it_is():
    DatasetCatalog.register("checks_list", list)
    try:
        check_datasets(cfg_for("checks_list"))
    finally:
        DatasetCatalog.remove("checks_list")


def test_one_process_of_a_machine_reads_and_all_stop(registered, monkeypatch):
    monkeypatch.setattr("gn_det.data.checks.check_json", pytest.fail)
    monkeypatch.setattr("gn_det.data.checks.comm.get_local_rank", lambda: 3)
    told = ["DATASETS.TRAIN x: wrong"]
    monkeypatch.setattr("gn_det.data.checks.comm.all_gather", lambda mine: [told, mine, told, mine])
    with pytest.raises(DatasetError) as error:
        check_datasets(cfg_for(registered))
    assert str(error.value) == told[0]
