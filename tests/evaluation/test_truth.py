"""The ground truth that scorers get: annotations out of any registered dataset, with all fields."""

import copy
import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator as TheirEvaluator
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from benchmarks.synthetic_coco import synthetic_coco
from gn_det.data import DatasetError, check_datasets, repair
from gn_det.engine import Trainer, load_runnable_config
from gn_det.evaluation import METRICS, COCOEvaluator, score
from gn_det.evaluation.truth import fill_missing_fields, load_truth

pytestmark = pytest.mark.usefixtures("forget")


def coco_of(content):
    truth = COCO()
    truth.dataset = copy.deepcopy(content)
    truth.createIndex()
    return truth


@pytest.fixture(scope="module")
def case():
    """The content of a json with areas as pycocotools measures detections, and detections."""
    content, detections = synthetic_coco(images=10, objects=80, detections=400, seed=5)
    truth = coco_of(content)
    for annotation in content["annotations"]:
        annotation["area"] = int(mask_util.area(truth.annToRLE(annotation)))
    return content, detections


def test_whole_annotations_are_left_as_they_are(case):
    truth = coco_of(case[0])
    assert fill_missing_fields(truth) is truth


def without_marks(content):
    for annotation in content["annotations"]:
        if not annotation["iscrowd"]:
            del annotation["iscrowd"]


def without_areas(content):
    for annotation in content["annotations"][::2]:
        annotation["area"] = None
    for annotation in content["annotations"][1::2]:
        del annotation["area"]


def with_names(content):
    for annotation in content["annotations"]:
        annotation["id"] = f"object {annotation['id']}"


def with_strangers(content):
    stranger = {"image_id": 99, "category_id": 2, "bbox": [0, 0, 9, 9]}
    content["annotations"].append({**stranger, "id": 10**6})


@pytest.mark.parametrize("scorer", ["fast", "pycocotools"])
@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("change", [without_marks, without_areas, with_names, with_strangers])
def test_what_is_filled_in_changes_no_number(case, change, task, scorer):
    content, detections = case
    expected = score(coco_of(content), detections, task, "pycocotools")
    lacking = copy.deepcopy(content)
    change(lacking)
    assert lacking != content
    truth = coco_of(lacking)
    found = score(truth, detections, task, scorer)
    assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert truth.dataset["annotations"] == lacking["annotations"]


def test_area_without_a_mask_is_the_box_s():
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3.5, 4]}
    content = {"images": [{"id": 1, "width": 9, "height": 9}], "categories": [{"id": 1}]}
    (filled,) = fill_missing_fields(coco_of({**content, "annotations": [annotation]})).anns.values()
    assert (filled["area"], filled["iscrowd"]) == (14, 0)


def test_area_of_polygons_needs_the_size_of_the_image():
    square = {"id": 7, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}
    content = {"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": [square]}
    with pytest.raises(DatasetError, match=r"Annotation 7 has no area, and its image 1 has no wid"):
        fill_missing_fields(coco_of(content))
    content["images"][0].update(width=9, height=9)
    (filled,) = fill_missing_fields(coco_of(content)).anns.values()
    assert filled["area"] == 16


def test_numbers_are_those_of_the_repaired_copy(case, tmp_path):
    content, detections = copy.deepcopy(case)
    for change in (without_marks, without_areas):
        change(content)
    for image in content["images"]:
        image["file_name"] = f"{image['id']}.png"
    path = tmp_path / "lacking.json"
    path.write_text(json.dumps(content))
    repair(path, tmp_path / "repaired.json")
    for name in ("lacking", "repaired"):
        register_coco_instances(f"truth_{name}", {}, str(tmp_path / f"{name}.json"), str(tmp_path))
    lacking, repaired = (
        score(load_truth(f"truth_{name}"), detections, "segm") for name in ("lacking", "repaired")
    )
    assert lacking == pytest.approx(repaired, nan_ok=True)


def test_unknown_and_missing_datasets(monkeypatch, tmp_path):
    with pytest.raises(DatasetError, match=r"coco_2017_vall: there is no .* coco_2017_val.* meant"):
        load_truth("coco_2017_vall")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(DatasetError) as error:
        load_truth("coco_2017_val")
    message = str(error.value)
    assert "instances_val2017.json are missing. Detectron2 looks below the environ" in message
    assert f"DETECTRON2_DATASETS (set to '{tmp_path}')" in message


def test_json_is_utf_8_whatever_the_locale(tmp_path):
    # with a mark, as Windows' editors write it, which the text of a locale does not know
    path = tmp_path / "x.json"
    content = '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "猫"}]}'
    path.write_text(content, encoding="utf-8-sig")
    register_coco_instances("truth_utf", {}, str(path), str(tmp_path))
    assert load_truth("truth_utf").cats[1]["name"] == "猫"


@pytest.mark.parametrize("content", ["[1, 2", "[]", '{"images": [{}]}', "{}"])
def test_a_json_that_is_no_dataset(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(content)
    register_coco_instances("truth_broken", {}, str(path), str(tmp_path))
    with pytest.raises(
        DatasetError, match=r"x\.json (is not a dataset in COCO's|has no annotations)"
    ):
        load_truth("truth_broken")


@pytest.fixture
def dicts(digits):
    """Three images as Detectron2's tutorial registers a dataset: dicts, names of classes."""
    chosen = DatasetCatalog.get(digits[1])[:3]
    DatasetCatalog.register("truth_dicts", lambda: copy.deepcopy(chosen))
    MetadataCatalog.get("truth_dicts").thing_classes = [str(i) for i in range(10)]
    return chosen


def test_dicts_are_converted(dicts, tmp_path):
    truth = load_truth("truth_dicts", str(tmp_path))
    written = tmp_path / "truth_dicts_coco_format.json"
    assert json.loads(written.read_text()) == truth.dataset
    assert len(truth.imgs) == 3
    assert [c["name"] for c in truth.dataset["categories"]] == [str(i) for i in range(10)]
    # Detectron2's evaluator would put it there, and take it for the truth in the next run
    assert MetadataCatalog.get("truth_dicts").get("json_file") is None
    written.write_text("old")
    assert len(load_truth("truth_dicts", str(tmp_path)).anns) == len(truth.anns)


def test_each_process_converts_and_the_main_one_writes(dicts, tmp_path, monkeypatch):
    monkeypatch.setattr("gn_det.evaluation.truth.comm.is_main_process", lambda: False)
    assert len(load_truth("truth_dicts", str(tmp_path)).imgs) == 3
    assert list(tmp_path.iterdir()) == []


def test_dicts_that_cannot_be_converted(dicts):
    MetadataCatalog.pop("truth_dicts")
    with pytest.raises(DatasetError, match="truth_dicts: it cannot be converted to COCO's format"):
        COCOEvaluator("truth_dicts")


def test_numbers_on_dicts_are_those_of_detectron2(dicts, tmp_path):
    ours = COCOEvaluator("truth_dicts")
    theirs = TheirEvaluator("truth_dicts", output_dir=str(tmp_path), use_fast_impl=False)
    assert ours._category_ids == {i: i for i in range(10)}
    found = [
        {
            "image_id": record["image_id"],
            "category_id": annotation["category_id"],
            "bbox": [float(v + 2) for v in annotation["bbox"]],
            "score": 1 - place / 100,
        }
        for record in dicts
        for place, annotation in enumerate(record["annotations"])
    ]
    numbers = score(ours._truth, found, "bbox")
    theirs._results = {}
    theirs._eval_predictions([{"instances": found}])
    expected = {metric: theirs._results["bbox"][metric] for metric in METRICS}
    assert {metric: numbers[metric] for metric in METRICS} == pytest.approx(
        expected, nan_ok=True, abs=1e-6
    )
    assert 10 < numbers["AP"] < 90


def test_a_model_is_trained_and_evaluated_on_dicts(dicts, digits_options, tmp_path):
    options = [*digits_options, "DATASETS.TRAIN", "('truth_dicts',)", "SOLVER.MAX_ITER", "1"]
    options += ["DATASETS.TEST", "('truth_dicts',)", "OUTPUT_DIR", str(tmp_path)]
    cfg = load_runnable_config("mask_rcnn_R50_gn_all.yaml", options)
    check_datasets(cfg)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    assert list(trainer.train()) == ["bbox", "segm"]
    files = {path.name for path in (tmp_path / "inference" / "truth_dicts").iterdir()}
    assert files >= {"truth_dicts_coco_format.json", "coco_instances_results.json"}
