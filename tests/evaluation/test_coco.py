import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator as TheirEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import BitMasks, Boxes, Instances

from gn_det.data import DatasetError
from gn_det.evaluation import COCOEvaluator, build_evaluator, score_file


@pytest.fixture
def predictions(digits):
    """Return inputs and outputs: the truth of ``digits_val``, moved and scored by chance."""
    rng = torch.Generator().manual_seed(0)
    inputs, outputs = [], []
    for record in DatasetCatalog.get(digits[1]):
        height, width = record["height"], record["width"]
        count = len(record["annotations"])
        xywh = torch.tensor([a["bbox"] for a in record["annotations"]])
        boxes = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)
        boxes = boxes + torch.randn(boxes.shape, generator=rng) * 3
        masks = torch.zeros(count, height, width, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().clamp(min=0).tolist()):
            mask[y0:y1, x0:x1] = True
        found = Instances((height, width))
        found.pred_boxes = Boxes(boxes)
        found.scores = torch.rand(count, generator=rng)
        found.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        found.pred_masks = masks
        inputs.append({"image_id": record["image_id"]})
        outputs.append({"instances": found})
    return inputs, outputs


def test_agrees_with_detectron2(digits, predictions, tmp_path):
    ours = COCOEvaluator(digits[1], str(tmp_path / "ours"))
    theirs = TheirEvaluator(digits[1], output_dir=str(tmp_path / "theirs"), use_fast_impl=False)
    theirs.reset()
    for evaluator in (ours, theirs):
        evaluator.process(*predictions)
    a, b = ours.evaluate(), theirs.evaluate()
    assert list(a) == list(b) == ["bbox", "segm"]
    for task in a:
        recalls = {name for name in a[task] if name.startswith("AR")}
        assert len(recalls) == 6  # Detectron2 leaves them out
        assert {m: v for m, v in a[task].items() if m not in recalls} == pytest.approx(
            b[task], nan_ok=True
        )
    assert 0 < a["bbox"]["AP"] < 100


def test_file_of_results_scores_the_same(digits, predictions, tmp_path):
    evaluator = build_evaluator(digits[1], str(tmp_path))
    evaluator.process(*predictions)
    results = evaluator.evaluate()
    again = score_file(digits[1], str(tmp_path / "coco_instances_results.json"))
    for task in results:
        assert again[task] == pytest.approx(results[task], nan_ok=True)


def test_scorers_give_the_same(digits, predictions, tmp_path):
    results = {}
    for scorer in ("fast", "pycocotools"):
        evaluator = build_evaluator(digits[1], str(tmp_path), scorer)
        evaluator.process(*predictions)
        results[scorer] = evaluator.evaluate()
        from_file = score_file(
            digits[1], str(tmp_path / "coco_instances_results.json"), scorer=scorer
        )
        for task in from_file:
            assert from_file[task] == pytest.approx(results[scorer][task], nan_ok=True)
    for task in ("bbox", "segm"):
        expected = results["pycocotools"][task]
        assert results["fast"][task] == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_scorer_that_does_not_exist(digits):
    with pytest.raises(ValueError, match="no scorer 'slow'"):
        COCOEvaluator(digits[1], scorer="slow")
    with pytest.raises(ValueError, match="no scorer 'slow'"):
        score_file(digits[1], "nowhere.json", scorer="slow")


def test_masks_are_those_of_detectron2(digits, predictions):
    ours = COCOEvaluator(digits[1])
    ours.process(*predictions)
    expected = [
        detection
        for image, output in zip(*predictions)
        for detection in instances_to_coco_json(output["instances"], image["image_id"])
    ]
    # the json's ids start at 1, the model's classes at 0
    assert [{**d, "category_id": d["category_id"] - 1} for d in ours.detections] == expected
    # BitMasks as well as their tensor
    for output in predictions[1]:
        output["instances"].pred_masks = BitMasks(output["instances"].pred_masks)
    again = COCOEvaluator(digits[1])
    again.process(*predictions)
    assert again.detections == ours.detections


def test_an_error_of_masks_names_the_image(digits, predictions):
    inputs, outputs = predictions
    outputs[0]["instances"].pred_masks = torch.zeros(len(outputs[0]["instances"]), 0)
    evaluator = COCOEvaluator(digits[1])
    evaluator.process([{**inputs[0], "file_name": "first.png"}, *inputs[1:2]], outputs[:2])
    with pytest.raises(ValueError, match="first.png"):
        evaluator.evaluate()


def test_no_detections(digits):
    evaluator = COCOEvaluator(digits[1])
    empty = Instances((96, 96))
    empty.pred_boxes, empty.scores = Boxes(torch.zeros(0, 4)), torch.zeros(0)
    empty.pred_classes = torch.zeros(0, dtype=torch.long)
    evaluator.process([{"image_id": 0}], [{"instances": empty}])
    assert evaluator.evaluate()["bbox"]["AP"] == 0


def test_class_that_the_dataset_does_not_have(digits, predictions):
    evaluator = COCOEvaluator(digits[1])
    evaluator.process(*predictions)
    expected = evaluator.evaluate()
    inputs, outputs = predictions
    other = outputs[0]["instances"][:1]
    other.pred_classes = torch.tensor([79])
    evaluator.process(inputs[:1], [{"instances": other}])
    assert evaluator.evaluate()["bbox"] == pytest.approx(expected["bbox"], nan_ok=True)


def test_reset_forgets(digits, predictions):
    evaluator = COCOEvaluator(digits[1])
    evaluator.process(*predictions)
    evaluator.reset()
    assert evaluator.evaluate()["bbox"]["AP"] == 0


def test_proposals_are_scored_as_by_detectron2(digits, tmp_path):
    rng = torch.Generator().manual_seed(0)
    ours = COCOEvaluator(digits[1], str(tmp_path / "ours"))
    theirs = TheirEvaluator(digits[1], output_dir=str(tmp_path / "theirs"), use_fast_impl=False)
    theirs.reset()
    for record in DatasetCatalog.get(digits[1]):
        xywh = torch.tensor([a["bbox"] for a in record["annotations"]])
        boxes = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1).repeat(40, 1)
        found = Instances((record["height"], record["width"]))
        found.proposal_boxes = Boxes(boxes + torch.randn(boxes.shape, generator=rng) * 6)
        found.objectness_logits = torch.rand(len(boxes), generator=rng)
        for evaluator in (ours, theirs):
            evaluator.process([{"image_id": record["image_id"]}], [{"proposals": found}])
    a, b = ours.evaluate(), theirs.evaluate()
    assert list(a) == list(b) == ["box_proposals"]
    assert a["box_proposals"] == pytest.approx(b["box_proposals"], nan_ok=True)
    assert 10 < a["box_proposals"]["AR@100"] < a["box_proposals"]["AR@1000"] < 100
    written = [tmp_path / name / "box_proposals.pkl" for name in ("ours", "theirs")]
    first, second = (pickle.loads(path.read_bytes()) for path in written)
    assert first["ids"] == second["ids"]
    assert all(map(np.array_equal, first["boxes"], second["boxes"]))
    assert not (tmp_path / "ours" / "coco_instances_results.json").exists()


def test_keypoints_are_scored(tmp_path, monkeypatch):
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [9, 9, 60, 60], "area": 3600}
    person.update(iscrowd=0, keypoints=[30, 40, 2] * 5, num_keypoints=5)
    image = {"id": 1, "file_name": "0.png", "width": 128, "height": 96}
    kinds = [{"id": 1, "name": "person"}]
    path = write(
        tmp_path / "kp.json", {"images": [image], "annotations": [person], "categories": kinds}
    )
    register_coco_instances("coco_kp", {}, path, str(tmp_path))
    evaluator = build_evaluator("coco_kp", str(tmp_path), keypoint_sigmas=[0.05] * 5)
    found = Instances((96, 128), pred_boxes=Boxes(torch.tensor([[9.0, 9, 69, 69]])))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    # a keypoint of the json is the index of a pixel, a predicted one the place of its middle
    found.pred_keypoints = torch.tensor([[30.5, 40.5, 1.0]]).repeat(5, 1)[None]
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == results["keypoints"]["AP"] == pytest.approx(100)
    file = str(tmp_path / "coco_instances_results.json")
    again = score_file("coco_kp", file, keypoint_sigmas=[0.05] * 5)
    assert str(again) == str(results)
    DatasetCatalog.remove("coco_kp")
    MetadataCatalog.pop("coco_kp")


def test_output_that_is_not_scored(digits):
    with pytest.raises(DatasetError, match="digits_val is scored by COCO.* it predicts sem_seg"):
        COCOEvaluator(digits[1]).process([{"image_id": 0}], [{"sem_seg": None}])


def test_file_of_results_of_another_kind_of_dataset(tmp_path):
    MetadataCatalog.get("coco_voc").evaluator_type = "pascal_voc"
    DatasetCatalog.register("coco_voc", list)
    MetadataCatalog.get("coco_voc").thing_classes = ["cat"]
    with pytest.raises(DatasetError, match="coco_voc has the evaluator_type 'pascal_voc'"):
        score_file("coco_voc", write(tmp_path / "r.json", []))
    DatasetCatalog.remove("coco_voc")
    MetadataCatalog.pop("coco_voc")


def test_file_with_more_objects_than_are_scored(digits, predictions, tmp_path, caplog):
    evaluator = COCOEvaluator(digits[1], str(tmp_path))
    evaluator.process(*predictions)
    evaluator.evaluate()
    score_file(digits[1], str(tmp_path / "coco_instances_results.json"), max_detections=1)
    assert "more objects of a class than the 1 detections that are scored" in caplog.text
    assert "Set TEST.MAX_DETECTIONS" in caplog.text


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2", "is not JSON"),
        ({"images": []}, "holds an object, not a list"),
        ([{"image_id": 0}], "entry 0 is not a detection"),
        (
            [{"image_id": 10**6, "category_id": 1, "score": 1.0, "bbox": [0, 0, 1, 1]}],
            "entry 0 has image_id 1000000, which digits_val does not have",
        ),
        (
            [{"image_id": None, "category_id": 99, "score": 1.0, "bbox": [0, 0, 1, 1]}],
            "entry 0 has category_id 99",
        ),
    ],
)
def test_bad_files(digits, tmp_path, content, message):
    if isinstance(content, list) and content[0].get("category_id") == 99:
        content[0]["image_id"] = DatasetCatalog.get(digits[1])[0]["image_id"]
    with pytest.raises(DatasetError, match=message):
        score_file(digits[1], write(tmp_path / "results.json", content))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (None, FileNotFoundError, "results.json: there is no such file"),
        (Path.mkdir, DatasetError, "results.json cannot be read: it is a folder"),
        (
            lambda path: path.write_bytes(b"\x89PNG\r\n\xff\xfe"),
            DatasetError,
            "results.json is not JSON: it is no text",
        ),
        (
            lambda path: path.write_bytes(gzip.compress(b"[]")),
            DatasetError,
            "results.json is not JSON: it is compressed with gzip: unpack it first",
        ),
        (lambda path: path.write_text("[" * 100_000), DatasetError, "results.json is not JSON"),
    ],
)
def test_what_is_no_file_of_results(digits, tmp_path, make, error, message):
    path = tmp_path / "results.json"
    if make is not None:
        make(path)
    with pytest.raises(error, match=message) as raised:
        score_file(digits[1], str(path))
    assert "\n" not in str(raised.value)


def test_results_of_a_dataset_that_is_unknown(tmp_path):
    with pytest.raises(DatasetError, match="coco_2017_vall: .* coco_2017_val .*meant"):
        score_file("coco_2017_vall", write(tmp_path / "results.json", []))
