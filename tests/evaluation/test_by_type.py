"""Each evaluator_type has the evaluators of Detectron2's tools/train_net.py."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)
from detectron2.structures import Boxes, Instances
from PIL import Image

from gn_det.data import DatasetError
from gn_det.evaluation import COCOEvaluator, build_evaluator, by_type, scores_of

pytestmark = pytest.mark.usefixtures("forget")

# one of Detectron2's datasets for each of its types, and what its tools score it by
EXPECTED = {
    "coco_2017_val": {COCOEvaluator},
    "keypoints_coco_2017_val": {COCOEvaluator},
    "coco_2017_val_panoptic": {COCOEvaluator, COCOPanopticEvaluator},
    "coco_2017_val_panoptic_separated": {COCOEvaluator, COCOPanopticEvaluator, SemSegEvaluator},
    "coco_2017_val_panoptic_stuffonly": {SemSegEvaluator},
    "lvis_v1_val": {LVISEvaluator},
    "voc_2007_val": {PascalVOCDetectionEvaluator},
    "cityscapes_fine_instance_seg_val": {CityscapesInstanceEvaluator},
    "cityscapes_fine_sem_seg_val": {CityscapesSemSegEvaluator},
    "cityscapes_fine_panoptic_val": {
        COCOPanopticEvaluator,
        CityscapesSemSegEvaluator,
        CityscapesInstanceEvaluator,
    },
    "ade20k_sem_seg_val": {SemSegEvaluator},
}


@pytest.fixture
def installed(monkeypatch):
    """Let every package be there, or those that are named."""

    def install(*names):
        found = importlib.util.find_spec
        known = {*by_type.INSTALL, "hotcoco"}
        monkeypatch.setattr(
            by_type.importlib.util,
            "find_spec",
            lambda name: (name in names or None) if name in known else found(name),
        )

    install(*by_type.INSTALL)
    return install


@pytest.mark.parametrize("name", EXPECTED)
def test_evaluators_of_detectron2_s_datasets(name, installed):
    assert {score.evaluator for score in scores_of(name)} == EXPECTED[name]


def test_no_type_of_detectron2_s_is_left_out(installed):
    types = {}
    for name in DatasetCatalog.list():
        kind = MetadataCatalog.get(name).get("evaluator_type")
        if kind is not None:
            types.setdefault(kind, name)
            scores_of(name)
    tested = {MetadataCatalog.get(name).evaluator_type for name in EXPECTED}
    assert set(types) == tested == set(by_type.EVALUATORS)


@pytest.mark.parametrize(
    ("name", "packages", "command"),
    [
        ("lvis_v1_val", "lvis", "pip install lvis"),
        ("coco_2017_val_panoptic", "panopticapi", r"pip install git\+https://github.com/coco.*api"),
        ("cityscapes_fine_sem_seg_val", "cityscapesscripts", "pip install cityscapesscripts"),
        (
            "cityscapes_fine_panoptic_val",
            "panopticapi and cityscapesscripts",
            "pip install git.* && pip install cityscapesscripts",
        ),
    ],
)
def test_a_missing_package_is_named_with_the_command(name, packages, command, installed):
    installed()
    with pytest.raises(DatasetError, match=rf"{name}: .* needs {packages}. Install it: {command}"):
        build_evaluator(name, None)


def test_unknown_type(installed):
    MetadataCatalog.get("by_type_odd").evaluator_type = "cocoo"
    with pytest.raises(DatasetError, match=r"'cocoo', which is unknown.*coco.*meant") as raised:
        build_evaluator("by_type_odd", None)
    assert all(kind in str(raised.value) for kind in by_type.EVALUATORS)
    assert "override Trainer.build_evaluator" in str(raised.value)
    MetadataCatalog.pop("by_type_odd")


@pytest.mark.parametrize("kind", [None, "coco"])
def test_coco_is_ours_with_all_options(digits, tmp_path, kind, monkeypatch):
    metadata = MetadataCatalog.get(digits[1])
    monkeypatch.setitem(metadata.__dict__, "evaluator_type", kind)
    evaluator = build_evaluator(
        digits[1], str(tmp_path), "pycocotools", max_detections=7, keypoint_sigmas=[0.1]
    )
    assert type(evaluator) is COCOEvaluator
    options = (evaluator._scorer, evaluator._max_detections, evaluator._sigmas)
    assert options == ("pycocotools", 7, (0.1,))


def test_semantic_segmentation(tmp_path):
    truth = np.zeros((6, 8), np.uint8)
    truth[:, 4:] = 1
    Image.fromarray(truth).save(tmp_path / "truth.png")
    record = {"file_name": "x.png", "sem_seg_file_name": str(tmp_path / "truth.png")}
    DatasetCatalog.register("by_type_stuff", lambda: [record])
    MetadataCatalog.get("by_type_stuff").set(
        evaluator_type="sem_seg", stuff_classes=["a", "b"], ignore_label=255
    )
    evaluator = build_evaluator("by_type_stuff", str(tmp_path))
    scores = torch.zeros(2, 6, 8)
    scores[0, :, :2] = 1  # a quarter of the image, of the half that is a
    scores[1, :, 2:] = 1
    evaluator.reset()
    evaluator.process([record], [{"sem_seg": scores}])
    # a: 12 of 24 pixels; b: 24 of 36
    results = evaluator.evaluate()["sem_seg"]
    assert results["mIoU"] == pytest.approx(100 * (12 / 24 + 24 / 36) / 2)
    assert results["IoU-a"] == pytest.approx(50)


def _labels(value, shape=(6, 8)):
    labels = np.zeros(shape, np.uint8)
    labels[3, 2:4] = value
    return labels


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            _labels(2),
            r"truth.png has the label 2, but by_type_stuff has 2 stuff_classes, from 0 to 1",
        ),
        (_labels(254), "has the label 254, but .* the ignore_label 255"),
        (_labels(0, (6, 8, 3)), "is a color picture, and not one label for each pixel"),
        (None, "its sem_seg_file_name .*truth.png does not exist"),
    ],
)
def test_wrong_labels_are_found_before_the_evaluation(tmp_path, labels, message):
    # of 2 in place of 255, Detectron2 would ignore the pixels; of 254 it would fail at the end
    if labels is not None:
        Image.fromarray(labels).save(tmp_path / "truth.png")
    record = {"file_name": "x.png", "sem_seg_file_name": str(tmp_path / "truth.png")}
    DatasetCatalog.register("by_type_stuff", lambda: [record])
    MetadataCatalog.get("by_type_stuff").set(
        evaluator_type="sem_seg", stuff_classes=["a", "b"], ignore_label=255
    )
    with pytest.raises(DatasetError, match=message):
        by_type.check_evaluator("by_type_stuff")


@pytest.mark.parametrize(
    ("kind", "metadata", "message"),
    [
        (
            "sem_seg",
            {"ignore_label": 255},
            "SemSegEvaluator needs stuff_classes and ignore_label in its metadata",
        ),
        (
            "sem_seg",
            {"stuff_classes": ["a"], "ignore_label": 255},
            r"sem_seg_file_name of each image \('sem_seg_file_name'\)",
        ),
        ("pascal_voc", {}, "needs dirname, split"),
        (
            "pascal_voc",
            {"dirname": ".", "split": "val", "thing_classes": ["a"], "year": 2010},
            r"year \(2007 or 2012\) in its metadata \(2010\)",
        ),
        ("lvis", {}, "LVISEvaluator needs json_file in its metadata"),
        ("coco_panoptic_seg", {"json_file": "d.json"}, "COCOPanopticEvaluator needs panoptic_json"),
    ],
)
def test_a_dataset_that_lacks_what_its_evaluator_reads(
    kind, metadata, message, installed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.json").write_text('{"images": [], "annotations": [], "categories": []}')
    DatasetCatalog.register("by_type_bare", lambda: [{"file_name": "x.png"}])
    MetadataCatalog.get("by_type_bare").set(evaluator_type=kind, **metadata)
    with pytest.raises(DatasetError, match=f"by_type_bare: .*{message}"):
        by_type.check_evaluator("by_type_bare")


def test_pascal_voc(tmp_path):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("a\n")
    (tmp_path / "Annotations" / "a.xml").write_text(
        "<annotation><object><name>cat</name><pose>x</pose><truncated>0</truncated>"
        "<difficult>0</difficult><bndbox><xmin>11</xmin><ymin>11</ymin><xmax>50</xmax>"
        "<ymax>50</ymax></bndbox></object></annotation>"
    )
    MetadataCatalog.get("by_type_voc").set(
        evaluator_type="pascal_voc",
        thing_classes=["cat"],
        dirname=str(tmp_path),
        split="val",
        year=2012,
    )
    evaluator = build_evaluator("by_type_voc", None)
    found = Instances((60, 60), pred_boxes=Boxes(torch.tensor([[10.0, 10, 50, 50]])))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    evaluator.reset()
    evaluator.process([{"image_id": "a"}], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    MetadataCatalog.pop("by_type_voc")


def test_lvis(tmp_path):
    pytest.importorskip("hotcoco")
    kinds = [
        {"id": i, "name": f"c{i}", "frequency": letter, "image_count": 1, "instance_count": 1}
        for i, letter in enumerate("rcf", start=1)
    ]
    objects = [
        {"id": i, "image_id": 1, "category_id": i, "bbox": [9 * i, 5, 8, 8], "area": 64}
        for i in (1, 2, 3)
    ]
    for record in objects:
        record["segmentation"] = [[0, 0, 9, 0, 9, 9]]
    image = {"id": 1, "height": 50, "width": 50}
    image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    content = {"images": [image], "categories": kinds, "annotations": objects}
    (tmp_path / "d.json").write_text(json.dumps(content))
    MetadataCatalog.get("by_type_lvis").set(
        evaluator_type="lvis", json_file=str(tmp_path / "d.json"), thing_classes=["a", "b", "c"]
    )
    evaluator = build_evaluator("by_type_lvis", str(tmp_path))
    boxes = torch.tensor([[9.0 * i, 5, 9 * i + 8, 13] for i in (1, 2)])
    found = Instances((50, 50), pred_boxes=Boxes(boxes), scores=torch.tensor([0.9, 0.8]))
    found.pred_classes = torch.tensor([0, 1])
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    results = evaluator.evaluate()["bbox"]
    # the rare and the common class are found, the frequent one is not
    assert (results["APr"], results["APc"], results["APf"]) == pytest.approx((100, 100, 0))
    assert results["AP"] == pytest.approx(200 / 3)
    MetadataCatalog.pop("by_type_lvis")
    sys.modules.pop("lvis", None)


def test_lvis_and_panoptic_get_folder_and_limit(tmp_path, installed, monkeypatch):
    made = []
    for name in ("LVISEvaluator", "COCOPanopticEvaluator", "SemSegEvaluator"):

        class Spy(getattr(by_type, name)):
            input_file_to_gt_file: dict = {}

            def __init__(self, *args, **kwargs):
                made.append((args, kwargs))

        for kind, scores in by_type.EVALUATORS.items():
            changed = [
                s._replace(evaluator=Spy) if s.evaluator.__name__ == name else s for s in scores
            ]
            monkeypatch.setitem(by_type.EVALUATORS, kind, tuple(changed))
        monkeypatch.setattr(by_type, name, Spy)
    folder = str(tmp_path)
    for limit, expected in ((100, 300), (500, 500)):
        build_evaluator("lvis_v1_val", folder, max_detections=limit)
        options = {"output_dir": folder, "max_dets_per_image": expected}
        assert made.pop() == (("lvis_v1_val",), options)
    (tmp_path / "d.json").write_text(
        json.dumps({"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": []})
    )
    MetadataCatalog.get("by_type_pan").set(
        evaluator_type="coco_panoptic_seg", sem_seg_root="x", json_file=str(tmp_path / "d.json")
    )
    DatasetCatalog.register("by_type_pan", list)
    evaluator = build_evaluator("by_type_pan", folder)
    assert isinstance(evaluator, DatasetEvaluators)
    (semantic, options), panoptic = made
    assert (semantic, options["output_dir"]) == (("by_type_pan",), folder)
    assert panoptic == (("by_type_pan", folder), {})
    assert type(evaluator._evaluators[1]) is COCOEvaluator
