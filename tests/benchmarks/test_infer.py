import pytest
import torch

from benchmarks import infer
from benchmarks.infer import Inference, measure, score_threshold
from benchmarks.variants import STOCK_GN, VARIANTS, choose
from benchmarks.workload import Setting, Workload


@pytest.fixture(scope="module")
def record(arguments):
    return infer.run(arguments(infer, "--variants", "stock-*-fp32", "--rois", "40"))


@pytest.fixture(scope="module")
def workload(tiny_config):
    return Workload(Setting(config=tiny_config, images=1, height=64, width=96, rois=40), False)


@pytest.fixture(scope="module")
def reference(workload):
    return Inference(workload, VARIANTS[STOCK_GN]).outputs()


def test_outputs_are_of_the_fixed_proposals(reference):
    assert reference["class logits"].shape == (40, 6)
    assert reference["box deltas"].shape == (40, 5 * 4)
    assert reference["mask scores"].shape == (40, 1, 28, 28)


def test_differences(workload, reference):
    names = "stock-frozenbn-fp32,stock-gn-fp32,stock-gn-bf16,standard-fp32,lean-fp32"
    rows = measure(workload, choose(names), reference, threshold=0.0, repeats=1, warmup=0)
    assert rows["stock-frozenbn-fp32"]["differences"] is None
    assert set(rows[STOCK_GN]["differences"].values()) == {0.0}
    assert rows["lean-fp32"]["differences"] == rows["standard-fp32"]["differences"]
    for key, value in rows["standard-fp32"]["differences"].items():
        assert value < 1e-5 * reference[key].abs().max()  # RoIAlign adds up in another order
    for key, value in rows["stock-gn-bf16"]["differences"].items():
        assert 0 < value < 0.1 * reference[key].abs().max()
    assert all(row["detections"] == 5 for row in rows.values())  # TEST.DETECTIONS_PER_IMAGE


def test_score_threshold():
    scores = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]])  # the last column is the background
    assert score_threshold(scores.log(), 2) == pytest.approx(0.5)
    assert score_threshold(scores.log(), 3) == pytest.approx(0.2)
    assert score_threshold(scores.log(), 9) == pytest.approx(0.1)


def test_record(record):
    assert list(record["variants"]) == ["stock-frozenbn-fp32", "stock-gn-fp32"]
    frozen, gn = record["variants"].values()
    assert frozen["ratios"][STOCK_GN]["seconds"] == frozen["seconds"] / gn["seconds"]
    # it has at least the parameters
    assert gn["peak_bytes"] > 4 * 11e6
    assert gn["detections"] == 5
    lines = {line.split()[0]: line.split() for line in infer.table(record).splitlines() if line}
    assert lines["stock-gn-fp32"][-3:] == ["0.0e+00"] * 3
    assert lines["stock-frozenbn-fp32"][-3:] == ["-"] * 3
