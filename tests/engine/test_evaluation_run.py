import json
import logging

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from gn_det.checkpoint import Checkpointer, WeightsError
from gn_det.config import ConfigError, get_cfg
from gn_det.engine import (
    by_dataset,
    evaluate_only,
    load_runnable_config,
    load_to_evaluate,
    record_evaluation,
    verify,
)
from gn_det.engine.evaluation_run import log_results

RESULTS = {"bbox": {"AP": 40.0, "AP-ship": float("nan")}, "segm": {"AP": 35.0}}


def _model(classes=4):
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Linear(8, classes))


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "whole.pth"
    torch.save({"model": _model().state_dict(), "iteration": 7}, path)
    return str(path)


def test_a_whole_model(whole):
    model = _model()
    assert load_to_evaluate(Checkpointer(model), whole)["iteration"] == 7
    saved = torch.load(whole, weights_only=True)["model"]
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def test_a_part_would_be_random(tmp_path):
    path = tmp_path / "part.pth"
    part = {name: v for name, v in _model().state_dict().items() if name.startswith("0.")}
    torch.save({"model": part}, path)
    with pytest.raises(WeightsError, match=r"part\.pth: .* for 1\.weight and 1 more, .* random"):
        load_to_evaluate(Checkpointer(_model()), str(path))


def test_evaluate_only(tmp_path, whole):
    cfg = results_cfg(tmp_path, "a", expected=[["bbox", "AP", 40.0, 0.1]])
    model, seen = _model(), []

    def evaluate(model):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return RESULTS

    assert evaluate_only(cfg, model, evaluate, whole) == RESULTS
    saved = torch.load(whole, weights_only=True)["model"]
    assert all(torch.equal(value, saved[name]) for name, value in seen[0].items())
    row = json.loads((tmp_path / "inference" / "metrics.json").read_text())
    assert (row["iteration"], row["bbox/AP"]) == (7, 40.0)

    Checkpointer(model, str(tmp_path)).save("model_0000009", iteration=9)
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 50.0, 0.1]]
    with pytest.raises(SystemExit, match="1"):  # once it is on record
        evaluate_only(cfg, model, evaluate, "", resume=True)
    rows = (tmp_path / "inference" / "metrics.json").read_text().splitlines()
    assert json.loads(rows[-1])["iteration"] == 9

    with pytest.raises(ConfigError, match="nothing to evaluate: --weights is empty"):
        evaluate_only(cfg, model, evaluate, "", key="--weights")
    assert len(seen) == 2


def test_results_are_on_the_disk_before_they_are_shown(tmp_path, whole):
    cfg = results_cfg(tmp_path, "a", expected=[["bbox", "AP", 50.0, 0.1]])
    shown = []

    def report(results):
        row = json.loads((tmp_path / "inference" / "metrics.json").read_text())
        shown.append((results, row["bbox/AP"]))

    with pytest.raises(SystemExit, match="1"):
        evaluate_only(cfg, _model(), lambda model: RESULTS, whole, report=report)
    assert shown == [({"a": RESULTS}, 40.0)]

    def broken(results):
        raise UnicodeEncodeError("cp1252", "猫", 0, 1, "no such character")

    cfg.OUTPUT_DIR = str(tmp_path / "broken")
    with pytest.raises(UnicodeEncodeError):
        evaluate_only(cfg, _model(), lambda model: RESULTS, whole, report=broken)
    assert (tmp_path / "broken" / "inference" / "metrics.json").exists()


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize("resume", [False, True])
def test_weights_of_other_classes_are_not_evaluated(tmp_path, resume):
    """Class by class: the boxes would be right, and every one of another class."""
    names = ["disc", "square", "triangle"]
    for name, classes in {
        "run_same": names,
        "run_fewer": names[:2],
        "run_swapped": ["square", "disc", "triangle"],
        "run_unknown": None,
    }.items():
        DatasetCatalog.register(name, list)
        if classes:
            MetadataCatalog.get(name).thing_classes = classes
    saver = Checkpointer(_model(), str(tmp_path), class_names={"thing_classes": names})
    saver.save("model_final")
    weights = "" if resume else str(tmp_path / "model_final.pth")

    def evaluate(*datasets, ignore=False):
        cfg = results_cfg(tmp_path, *datasets)
        cfg.DATASETS.IGNORE_CLASS_NAMES = ignore
        results = dict.fromkeys(datasets, RESULTS) if len(datasets) > 1 else RESULTS
        return evaluate_only(cfg, _model(), lambda model: results, weights, resume=resume)

    of_all = evaluate("run_same", "run_fewer", "run_unknown", "run_nowhere")
    assert of_all["run_nowhere"] == RESULTS
    assert evaluate("run_swapped", ignore=True) == RESULTS
    before = (tmp_path / "inference" / "metrics.json").read_text()
    with pytest.raises(ConfigError, match="than run_swapped has: class 0 is 'disc' in the weights"):
        evaluate("run_same", "run_swapped")
    assert (tmp_path / "inference" / "metrics.json").read_text() == before


def test_an_evaluation_without_results_is_not_recorded(tmp_path, whole):
    cfg = results_cfg(tmp_path, "a")
    assert evaluate_only(cfg, _model(), lambda model: None, whole) is None
    assert not (tmp_path / "inference").exists()


@pytest.mark.parametrize("resume", [True, False])
def test_nothing_to_load(tmp_path, resume):
    checkpointer = Checkpointer(_model(), str(tmp_path))
    with pytest.raises(ConfigError, match="nothing to evaluate: train.init_checkpoint is empty"):
        load_to_evaluate(checkpointer, "", resume=resume, key="train.init_checkpoint")


def test_the_run_of_the_folder(tmp_path, whole):
    model = _model()
    Checkpointer(model, str(tmp_path)).save("model_0000009", iteration=9)
    again = Checkpointer(_model(), str(tmp_path))
    assert load_to_evaluate(again, "", resume=True)["iteration"] == 9
    assert torch.equal(again.model[0].weight, model[0].weight)
    assert load_to_evaluate(again, whole)["iteration"] == 7


def results_cfg(folder, *names, expected=()):
    opts = ["OUTPUT_DIR", str(folder), "DATASETS.TEST", names]
    opts += ["TEST.EXPECTED_RESULTS", list(expected)]
    return load_runnable_config("mask_rcnn_R50_gn_all.yaml", opts)


def test_results_by_dataset(tmp_path):
    assert by_dataset(results_cfg(tmp_path, "a"), RESULTS) == {"a": RESULTS}
    of_two = {"a": RESULTS, "b": RESULTS}
    assert by_dataset(results_cfg(tmp_path, "a", "b"), of_two) == of_two


@pytest.mark.parametrize(
    ("checkpoint", "iteration"),
    [({"iteration": 7}, 7), ({}, 0), ({"iteration": "many"}, 0), ({"iteration": -1}, 0)],
)
def test_evaluation_on_record(tmp_path, caplog, checkpoint, iteration):
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            record_evaluation(str(tmp_path), RESULTS, checkpoint)
    assert "lr:" not in caplog.text  # no line of a training
    folder = tmp_path / "inference"
    assert [path.name for path in tmp_path.iterdir()] == ["inference"]
    first, second = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    assert str(first) == str(second)
    assert first["iteration"] == iteration
    assert (first["bbox/AP"], first["segm/AP"]) == (40.0, 35.0)
    assert list(folder.glob("events.out.tfevents.*"))


def test_expected_results_with_test_time_augmentation(tmp_path):
    cfg = results_cfg(tmp_path, "a", expected=[["bbox_TTA", "AP", 40.0, 0.2]])
    with pytest.raises(SystemExit, match="1"):
        verify(cfg, {"a": RESULTS})
    cfg.TEST.AUG.ENABLED = True
    verify(cfg, {"a": RESULTS})  # finished weights
    verify(cfg, {"a": {"bbox": {"AP": 1.0}, "bbox_TTA": {"AP": 40.0}}})  # the end of a training
    with pytest.raises(SystemExit, match="1"):
        verify(cfg, {"a": {"bbox": {"AP": 40.0}, "bbox_TTA": {"AP": 1.0}}})


@pytest.mark.parametrize(
    ("task", "percent", "good"),
    [("bbox", 40.1, True), ("bbox", 41.0, False), ("keypoints", 40.0, False)],
)
@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_expected_results_of_each_dataset(tmp_path, names, task, percent, good):
    cfg = results_cfg(tmp_path, *names, expected=[[task, "AP", percent, 0.2]])
    results = dict.fromkeys(names, RESULTS)
    if good:
        verify(cfg, results)
        results["b"] = {"bbox": {"AP": 30.0}}
    with pytest.raises(SystemExit) as exit_:
        verify(cfg, results)
    assert exit_.value.code == 1


@pytest.mark.parametrize(
    ("names", "results", "lines"),
    [
        (
            ("a",),
            {"bbox": {"AP": 12.345, "AP75": float("nan"), "AP-cat": 1.0}},
            ["a bbox: AP 12.35"],
        ),
        (
            ("a", "b"),
            {"a": {"bbox": {"AP": 1.0}, "segm": {"AP": 2.0}}, "b": {"bbox": {"AP": 3.0}}},
            ["a bbox: AP 1.00", "a segm: AP 2.00", "b bbox: AP 3.00"],
        ),
        ((), {"classification": {"top1_error": 4.0}}, ["val classification: top1_error 4.00"]),
    ],
)
def test_results_are_a_line_for_each_task(names, results, lines, caplog):
    cfg = get_cfg()
    cfg.DATASETS.TEST = names
    with caplog.at_level(logging.INFO, "gn_det"):
        log_results(cfg, results)
    assert caplog.messages == lines
