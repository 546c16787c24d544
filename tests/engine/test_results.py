import json
import logging

import pytest

from gn_det.engine import by_dataset, load_runnable_config, record_evaluation, verify

RESULTS = {"bbox": {"AP": 40.0, "AP-ship": float("nan")}, "segm": {"AP": 35.0}}


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
