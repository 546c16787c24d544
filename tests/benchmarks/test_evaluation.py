import argparse
import json
import math
import sys

import pytest

from benchmarks import evaluation
from benchmarks.evaluation_steps import STEPS
from gn_det.evaluation import METRICS


def parse(*words):
    parser = argparse.ArgumentParser()
    evaluation.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture(scope="module")
def scored():
    sizes = ("--images", 8, "--objects", 60, "--detections", 300)
    return evaluation.run(parse("--only", "score", *sizes, "--seed", 1))


def test_scorers_agree(scored):
    assert set(scored) == {"benchmark", "score"}
    for of_task in scored["score"]["tasks"].values():
        fast, reference = of_task["fast"], of_task["pycocotools"]
        assert set(METRICS) < set(fast["results"])
        assert fast["results"] == pytest.approx(reference["results"], abs=1e-6, nan_ok=True)
        assert of_task["largest_difference"] < 1e-6
        assert of_task["ratio"] == reference["seconds"] / fast["seconds"]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_is_that_of_the_process(scored):
    for of_task in scored["score"]["tasks"].values():
        for scorer in ("fast", "pycocotools"):
            row = of_task[scorer]
            assert row["peak_bytes"] >= row["resident_bytes"] > 50 * 2**20


def test_table_of_scorers(scored):
    lines = evaluation.table(json.loads(json.dumps(scored))).splitlines()
    assert lines[0] == "Scoring 300 synthetic detections of 60 objects on 8 images; median of 1"
    rows = [line.split() for line in lines[4:8]]
    tasks = scored["score"]["tasks"]
    for row, task in zip(rows, ("bbox", "bbox", "segm", "segm")):
        assert row[0] == task
        assert row[4] == f"{tasks[task][row[1]]['results']['AP']:.6f}"
    assert [row[1] for row in rows] == ["fast", "pycocotools"] * 2
    assert lines[-1].startswith("largest difference, of all metrics and classes: ")


@pytest.fixture(scope="module")
def steps(digits):
    return evaluation.run(parse("--only", "steps", "--dataset", digits[0], "--step-images", 2))


def test_steps_of_both_give_the_same(steps):
    record = steps["steps"]
    assert record["images"] == 2
    assert record["detections"] == 200
    assert record["different_masks"] == 0
    stock, ours = record["results"].values()
    for task in ("bbox", "segm"):
        assert ours[task] == pytest.approx(stock[task], abs=1e-6, nan_ok=True)
    for times in record["seconds"].values():
        assert tuple(times) == STEPS
        assert all(seconds > 0 for seconds in times.values())


def test_table_of_steps(steps):
    lines = evaluation.table(steps).splitlines()
    assert "on 2 images, 200 detections, 0 different masks" in lines[0]
    assert [line.split()[0] for line in lines[4:]] == [*STEPS, "all"]
    shares = [float(line.split()[2].rstrip("%")) for line in lines[4:-1]]
    assert sum(shares) == pytest.approx(100, abs=3)


def test_gap_sees_nan():
    assert evaluation._gap(1.0, 3.5) == 2.5
    assert evaluation._gap(math.nan, math.nan) == 0.0
    assert evaluation._gap(math.nan, 1.0) == evaluation._gap(1.0, math.nan) == math.inf
