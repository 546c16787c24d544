import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode
from PIL import Image

import gn_det
from gn_det.data import (
    DatasetError,
    check_datasets,
    check_images,
    check_masks,
    register_photo_digits,
)
from gn_det.data.checks.config_datasets import SAMPLE
from gn_det.data.embedded.photo_digits import FOLDER
from gn_det.engine import Trainer

pytestmark = pytest.mark.usefixtures("forget")


@pytest.fixture
def coco(tmp_path):
    """Return a function that registers a dataset of one image with an object of each class."""

    def make(name="checks_coco", classes=3, json_there=True, folder_there=True, names=()):
        names = names or [f"c{i}" for i in range(classes)]
        json_file, folder = tmp_path / f"{name}.json", tmp_path / "images"
        if json_there:
            box = {"image_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
            json_file.write_text(
                json.dumps(
                    {
                        "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 8}],
                        "categories": [{"id": i, "name": n} for i, n in enumerate(names)],
                        "annotations": [
                            {**box, "id": i + 1, "category_id": i} for i in range(len(names))
                        ],
                    }
                )
            )
        if folder_there:
            folder.mkdir(exist_ok=True)
            Image.new("RGB", (8, 8)).save(folder / "a.png")
        register_coco_instances(name, {}, str(json_file), str(folder))
        return name

    return make


def cfg_for(*names, num_classes=3):
    cfg = gn_det.get_cfg()
    cfg.DATASETS.TRAIN = names
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    return cfg


def ours(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("gn_det")]


def test_good_dataset_is_silent(registered, caplog):
    cfg = cfg_for(registered)
    cfg.DATASETS.TEST = (registered,)
    cfg.MODEL.MASK_ON = True
    with caplog.at_level("DEBUG"):
        check_datasets(cfg)
    assert ours(caplog) == []


def test_builtin_dataset_is_built(tmp_path):
    # as few scenes as it takes to have each digit in both
    names = register_photo_digits(
        "checks_digits", tmp_path, num_train=8, num_val=8, size=96, seed=0
    )
    cfg = cfg_for(names[0], num_classes=10)
    cfg.DATASETS.TEST = (names[1],)
    assert not (tmp_path / FOLDER).exists()
    check_datasets(cfg)
    assert len(list((tmp_path / FOLDER / "val").iterdir())) == 8


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
    with pytest.raises(DatasetError, match=r"\(c0, c1, c2, c3, c4 and 2 more\), but"):
        check_datasets(cfg_for(coco("checks_seven", classes=7), num_classes=4))


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
    assert message.startswith("DATASETS.TRAIN x: of 4 images that were read, 2 are wrong:")
    assert "2.png: the image and the json differ in size: it is 64 x 48" in message
    assert "4.png: the file is not an image that can be read: a Git LFS pointer" in message
    assert "gn-det check-dataset" in message


def deep_dicts(made, dtype=np.uint16):
    """Give the images of a dataset values from 0 to 3071, and return their dicts."""
    ramp = np.arange(48 * 64).reshape(48, 64).astype(dtype)
    for image in made.content["images"]:
        image["file_name"] = image["file_name"].replace(".png", ".tif")
        Image.fromarray(ramp).save(made.root / image["file_name"])
    made.write()
    return [
        {**image, "file_name": str(made.root / image["file_name"])}
        for image in made.content["images"]
    ]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_more_than_8_bits(made, dtype, caplog):
    dicts, cfg = deep_dicts(made, dtype), cfg_for()
    for given in (None, cfg):
        with pytest.raises(DatasetError) as error:
            check_images(dicts, "DATASETS.TRAIN x", given)
        message = str(error.value)
        assert message.startswith("DATASETS.TRAIN x: 4 of 4 images that were read have more than 8")
        assert "1.tif (mode" in message
        assert "values 0 to 3071, 98% of the pixels 30.71 to 3040.29" in message
        assert '    INPUT.WINDOW "[0, 3071]"' in message
    for window in ((0, 3071), ("1%", "99%")):
        cfg.INPUT.WINDOW = window
        check_images(dicts, "DATASETS.TRAIN x", cfg)
    assert ours(caplog) == []
    cfg.INPUT.WINDOW = (0, 10)
    check_images(dicts, "DATASETS.TRAIN x", cfg)
    (warning,) = ours(caplog)
    assert "INPUT.WINDOW [0, 10] makes nearly all pixels 255 to 255" in warning


def test_more_than_8_bits_in_a_test_set(made, registered):
    deep_dicts(made)
    cfg = to_score(registered)
    lines = messages(cfg)
    assert lines[0].startswith("DATASETS.TEST checks_made: 4 of 4 images")
    assert lines[1] == '    INPUT.WINDOW "[0, 3071]"'
    cfg.INPUT.WINDOW = (0, 3071)
    check_datasets(cfg, training=False)


def test_pages_of_a_tiff(made, caplog):
    pages = [Image.new("L", (64, 48))] * 3
    pages[0].save(made.root / "1.tif", save_all=True, append_images=pages[1:])
    record = {"file_name": str(made.root / "1.tif"), "width": 64, "height": 48}
    check_images([record], "DATASETS.TRAIN x")
    (warning,) = ours(caplog)
    assert warning.startswith("DATASETS.TRAIN x: 1 of 1 images that were read are TIFFs with")


def test_narrow_images(made, registered):
    Image.new("RGB", (1, 5000)).save(made.root / "1.png")
    record = {"file_name": str(made.root / "1.png"), "width": 1, "height": 5000}
    check_images([record], "DATASETS.TRAIN x")
    message = "DATASETS.TRAIN x: 1 image is too narrow .*1.png: 1 x 5000 pixels become 0 x 1333"
    with pytest.raises(DatasetError, match=message):
        check_images([record], "DATASETS.TRAIN x", cfg_for())
    made.content["images"][0].update(width=1, height=5000)
    for annotation in made.content["annotations"]:
        annotation.update(bbox=[0, 8, 1, 4], area=4, segmentation=[[0, 8, 1, 8, 1, 12, 0, 12]])
    made.write()
    (line,) = messages(to_score(registered))
    assert "become 0 x 1333 at INPUT.MAX_SIZE_TEST 1333" in line


@pytest.mark.parametrize("count", [SAMPLE, SAMPLE + 1, 5 * SAMPLE + 3])
def test_only_some_of_many_images_are_opened(made, monkeypatch, count):
    opened = []

    def watch(files, workers):
        opened.extend(path for path, _ in files)
        return iter(())

    monkeypatch.setattr("gn_det.data.checks.config_datasets.check_images_of", watch)
    monkeypatch.setattr("gn_det.data.checks.config_datasets.missing_files", lambda paths: iter(()))
    check_images([{"file_name": f"{i}.png"} for i in range(count)], "x")
    assert SAMPLE / 2 < len(opened) <= SAMPLE
    assert opened[0] == "0.png"


@pytest.fixture
def registered(made):
    register_coco_instances("checks_made", {}, str(made.json), str(made.root))
    return "checks_made"


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
    made.first.update(bbox=[50, 8, 20, 20], segmentation=[[50, 8, 64, 8, 64, 28, 50, 28]])
    made.write()
    check_datasets(cfg_for(registered))
    assert (
        "checks_made: 1 x box-outside: the box is more than one pixel outside the image (1.png"
        in caplog.text
    )


def test_broken_json(made, registered):
    made.json.write_text("[1, 2")
    with pytest.raises(DatasetError, match="DATASETS.TRAIN checks_made: .*made.json: it is a list"):
        check_datasets(cfg_for(registered))


def test_classes_of_test_that_train_lacks(made, registered, coco):
    cfg = cfg_for(registered)
    cfg.DATASETS.TEST = (coco(classes=2),)
    with pytest.raises(DatasetError, match=r"2 x class-not-in-train: .* \(c0\)"):
        check_datasets(cfg)


SAME = ["cat", "dog", "cow"]


@pytest.mark.parametrize(
    ("names", "difference"),
    [
        (
            ["dog", "cat", "cow"],
            "class 0 is 'cat' in checks_made and 'dog' in other, class 1 'dog'",
        ),
        (["cat", "dog", "ox"], "class 2 is 'cow' in checks_made and 'ox' in other. Several"),
        ([*SAME, "pig"], "class 3 is missing in checks_made and 'pig' in other (3 classes"),
        (SAME[:2], "class 2 is 'cow' in checks_made and missing in other (3 classes"),
    ],
)
@pytest.mark.parametrize("kind", ["json", "dicts", "dicts that are not loaded"])
def test_training_sets_of_other_classes(registered, coco, names, difference, kind, caplog):
    """One line as for a test set: Detectron2 stops with a traceback once all is loaded."""

    def load():
        MetadataCatalog.get("other").set(thing_classes=names)
        return []

    def check(*trains):
        return messages(cfg_for(*trains, num_classes=4), training=True)

    if kind == "json":
        coco("other", names=names)
    else:
        DatasetCatalog.register("other", load)
        if kind == "dicts":
            load()
    coco("same", names=SAME)
    for trains in ([registered, "other"], [registered, "same", "other"]):
        (line,) = check(*trains)
        assert line.startswith("DATASETS.TRAIN other: its classes are not those of checks_made: ")
        assert difference in line
    assert len(check("other", registered, "same")) == 2
    check_datasets(cfg_for(registered, "same", registered, num_classes=4))


def test_training_sets_whose_ids_differ_and_whose_names_do_not(registered, coco, caplog, tmp_path):
    coco("ids", names=SAME)
    path = tmp_path / "ids.json"
    content = json.loads(path.read_text())
    for record, key in (*((c, "id") for c in content["categories"]),
                        *((a, "category_id") for a in content["annotations"])):  # fmt: skip
        record[key] = 10 * record[key] + 7
    path.write_text(json.dumps(content))
    check_datasets(cfg_for(registered, "ids"))
    assert ours(caplog) == []


@pytest.mark.parametrize("first", [True, False])
def test_a_training_set_whose_names_are_not_known(registered, first, caplog):
    DatasetCatalog.register("checks_list", list)
    names = ["checks_list", registered] if first else [registered, "checks_list"]
    check_datasets(cfg_for(*names))
    (line,) = ours(caplog)
    assert line.startswith("DATASETS.TRAIN checks_list: the names of its classes are not known")


@pytest.mark.parametrize("names", [["dog", "cat", "cow"], SAME, SAME[:2]])
def test_a_test_set_beside_a_training_set_of_dicts(registered, names):
    """With two jsons the report of the test set says it, see class-order."""
    DatasetCatalog.register("checks_list", list)
    MetadataCatalog.get("checks_list").set(thing_classes=names)
    cfg = cfg_for("checks_list")
    cfg.DATASETS.TEST = (registered,)
    cfg.MODEL.MASK_ON = False
    if names == SAME:
        check_datasets(cfg)
        return
    line = messages(cfg, training=True)[-1]
    assert line.startswith("DATASETS.TEST checks_made: its classes are not those of checks_list: ")
    assert "class 0 is 'dog' in checks_list" in line or "class 2 is missing in checks" in line


def test_a_training_set_without_a_json_is_taken_as_it_is():
    DatasetCatalog.register("checks_list", list)
    check_datasets(cfg_for("checks_list"))


def to_score(name, **options):
    cfg = cfg_for()
    cfg.DATASETS.TEST = (name,)
    cfg.MODEL.MASK_ON = options.get("masks", False)
    return cfg


def messages(cfg, training=False):
    """Return the lines of the error."""
    with pytest.raises(DatasetError) as error:
        check_datasets(cfg, training=training)
    return str(error.value).splitlines()


def test_images_of_the_test_set(made, registered):
    (made.root / "2.png").unlink()
    lines = messages(to_score(registered))
    assert lines == [
        "DATASETS.TEST checks_made: 1 of 4 images are missing, the first:",
        f"    {made.root / '2.png'}",
    ]
    # those of a training set have their check where they are loaded
    check_datasets(cfg_for(registered))


def test_content_of_the_test_set_s_images(made, registered):
    Image.new("RGB", (48, 64)).save(made.root / "2.png")
    assert "of 4 images that were read, 1 are wrong" in messages(to_score(registered))[0]


def test_masks_of_the_test_set(made, registered):
    for annotation in made.content["annotations"]:
        annotation["segmentation"] = []
    made.write()
    check_datasets(to_score(registered), training=False)
    assert messages(to_score(registered, masks=True)) == [
        f"DATASETS.TEST checks_made: 7 of 7 annotations have no mask, the first in "
        f"{made.root / '1.png'}, but MODEL.MASK_ON is True. Set MODEL.MASK_ON False, or add masks."
    ]


def test_keypoints_of_the_test_set(made, registered):
    cfg = to_score(registered)
    cfg.MODEL.KEYPOINT_ON = True
    (line,) = messages(cfg)
    assert "no annotation has keypoints, but MODEL.KEYPOINT_ON is True" in line
    made.first["keypoints"] = [1, 2, 2] * 17
    made.write()
    check_datasets(cfg, training=False)


def test_some_masks_of_the_test_set(made, registered):
    # a crowd is held against masks as well
    made.content["annotations"][1].update(segmentation=[], iscrowd=1)
    made.write()
    (line,) = messages(to_score(registered, masks=True))
    assert "1 of 7 annotations have no mask, the first in " in line
    assert "2.png" in line


def test_masks_of_a_training_set():
    box = {"bbox": [1, 1, 4, 4], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    masked = {**box, "segmentation": [[1, 1, 4, 1, 4, 4]]}
    dicts = [
        {"file_name": "a.png", "annotations": [masked, {**box, "iscrowd": 1}]},
        {"file_name": "b.png", "annotations": []},
        {"file_name": "c.png"},
    ]
    check_masks(dicts, "x")
    dicts[1]["annotations"] = [{**box, "segmentation": []}, box]
    with pytest.raises(DatasetError, match=r"^x: 2 of 3 annotations .* in b\.png, .*MASK_ON False"):
        check_masks(dicts, "x")


def test_loader_of_a_training_needs_masks(made, registered, tiny_cfg):
    del made.first["segmentation"]
    made.write()
    options = ["DATASETS.TRAIN", (registered,), "DATALOADER.NUM_WORKERS", 0]
    cfg = tiny_cfg(*options)
    where = r"DATASETS\.TRAIN \('checks_made',\): 1 of 7 annotations have no mask"
    with pytest.raises(DatasetError, match=where):
        Trainer.build_train_loader(cfg)
    # a mapper of one's own may find them elsewhere
    Trainer.build_train_loader(cfg, mapper=lambda record: record)
    Trainer.build_train_loader(tiny_cfg(*options, "MODEL.MASK_ON", False))


@pytest.mark.parametrize("kind", ["none", "crowds", "of other images"])
def test_nothing_to_learn_and_nothing_to_score(made, registered, coco, kind):
    if kind == "none":
        made.content["annotations"] = []
    for annotation in made.content["annotations"]:
        annotation.update({"iscrowd": 1} if kind == "crowds" else {"image_id": 99})
    made.write()
    (line,) = messages(cfg_for(registered), training=True)
    assert line.startswith("DATASETS.TRAIN ('checks_made',): there is nothing to learn: no image")
    (line,) = messages(to_score(registered))
    assert line.startswith("DATASETS.TEST checks_made: there is nothing to score: no image")
    cfg = cfg_for(registered, coco(names=["cat", "dog", "cow"]))
    check_datasets(cfg)  # enough that one of them has objects
    cfg = cfg_for(registered)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    check_datasets(cfg)


@pytest.fixture
def as_dicts(made):
    """The good dataset as the tutorial registers one: dicts and the names of classes."""
    dicts = [
        {
            "file_name": str(made.root / image["file_name"]),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "annotations": [
                {
                    "bbox": a["bbox"],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": (2, 5, 7).index(a["category_id"]),
                    "segmentation": [[x, y, x + w, y, x + w, y + h]],
                }
                for a in made.content["annotations"]
                if a["image_id"] == image["id"]
                for x, y, w, h in [a["bbox"]]
            ],
        }
        for image in made.content["images"]
    ]
    DatasetCatalog.register("checks_dicts", lambda: dicts)
    MetadataCatalog.get("checks_dicts").thing_classes = ["cat", "dog", "cow"]
    return dicts


def test_dicts_are_checked_as_a_json_is(made, as_dicts, caplog):
    cfg = to_score("checks_dicts", masks=True)
    check_datasets(cfg, training=False)
    assert ours(caplog) == []
    as_dicts[1]["annotations"][0]["bbox"] = [8, 8, -4, 4]
    lines = messages(cfg)
    assert lines[0] == "DATASETS.TEST checks_dicts: its list of dicts has"
    assert "1 x box-negative" in lines[1]
    assert len(lines) == 2
    as_dicts[1]["annotations"] = []
    (made.root / "3.png").unlink()
    del as_dicts[0]["annotations"][0]["segmentation"]
    lines = messages(cfg)
    assert "1 of 5 annotations have no mask" in lines[0]
    assert "1 of 4 images are missing" in lines[1]


def test_dicts_of_a_training_set_are_checked_too(made, as_dicts, caplog):
    cfg = cfg_for("checks_dicts")
    cfg.DATASETS.TEST = ("checks_dicts",)
    check_datasets(cfg)
    assert ours(caplog) == []
    box = as_dicts[1]["annotations"][0]["bbox"]
    as_dicts[1]["annotations"][0]["bbox"] = [box[0], box[1], -4, 4]
    as_dicts[2]["annotations"][0]["category_id"] = 7
    cfg.DATASETS.TEST = ()
    lines = messages(cfg, training=True)
    assert lines[0] == "DATASETS.TRAIN checks_dicts: its list of dicts has"
    assert "1 x class-unknown: the annotation's class does not exist" in lines[1]
    assert "1 x box-negative: the box has a negative size" in lines[2]
    MetadataCatalog.get("checks_dicts").evaluator_type = "mine"
    check_datasets(cfg)
    MetadataCatalog.pop("checks_dicts")  # the names of the classes as well
    lines = messages(cfg, training=True)
    assert "it has 8 classes (0, 1, 2, 3, 4 and 3 more), but" in lines[0]
    for record in as_dicts:
        record["annotations"] = []
    (line,) = messages(cfg, training=True)
    assert line.startswith("DATASETS.TRAIN ('checks_dicts',): there is nothing to learn: no image")


@pytest.mark.parametrize("lacking", ["image_id", "height", "thing_classes", "bbox_mode"])
def test_dicts_that_cannot_be_scored(as_dicts, lacking):
    if lacking == "thing_classes":
        MetadataCatalog.pop("checks_dicts")
    elif lacking == "bbox_mode":
        del as_dicts[2]["annotations"][0][lacking]
    else:
        del as_dicts[2][lacking]
    (line,) = messages(to_score("checks_dicts"))
    assert line.startswith("DATASETS.TEST checks_dicts: it")
    assert lacking in line.partition("Each dict needs")[0]
    assert "For an evaluator of your own, set evaluator_type" in line
    MetadataCatalog.get("checks_dicts").evaluator_type = "mine"
    check_datasets(to_score("checks_dicts"), training=False)


def test_one_process_of_a_machine_reads_and_all_stop(registered, monkeypatch):
    monkeypatch.setattr("gn_det.data.checks.config_datasets.check_json", pytest.fail)
    monkeypatch.setattr("gn_det.data.checks.config_datasets.comm.get_local_rank", lambda: 3)
    found = ["DATASETS.TRAIN x: wrong"]
    monkeypatch.setattr(
        "gn_det.data.checks.config_datasets.comm.all_gather",
        lambda mine: [found, mine, found, mine],
    )
    with pytest.raises(DatasetError) as error:
        check_datasets(cfg_for(registered))
    assert str(error.value) == found[0]
