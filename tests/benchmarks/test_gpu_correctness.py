import pytest
import torch

from benchmarks.gpu import correctness
from benchmarks.gpu.correctness import LAYOUTS, compare

SHAPE = (2, 64, 5, 6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("way", ["layer", "fp32 statistics"])
def test_ways_beside_float64(way, layout):
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        for relu, residual in ((False, False), (True, True)):
            found = compare(way, SHAPE, dtype, layout, 0.0, relu, residual)
            assert found.pop("kept")
            # where ReLU's input is nearly 0, rounding to bfloat16 switches it
            assert max(found.values()) < limit * (10 if relu else 1)


def test_empty_input():
    found = compare("layer", (0, 64, 7, 7), torch.float32, "NCHW")
    assert found == {"y": 0, "dx": 0, "dweight": 0, "dbias": 0, "kept": True}


def test_errors_are_seen(monkeypatch):
    def wrong(x, norm, relu, residual):
        return (1.01 * norm(x)).float()

    monkeypatch.setitem(correctness.WAYS, "wrong", wrong)
    found = compare("wrong", SHAPE, torch.float32, "NCHW")
    for value in correctness.VALUES:
        assert found[value] == pytest.approx(0.01, rel=1e-3)
    assert not compare("wrong", SHAPE, torch.bfloat16, "NCHW")["kept"]


def test_worst_case_of_each_dtype_and_mean():
    def case(y, dx):
        return {"y": y, "dx": dx, "dweight": 0.0, "dbias": 0.0}

    cases = {
        "(2, 64, 5, 6) float32 NCHW mean 0": case(1, 5),
        "(2, 64, 5, 6) float32 NHWC mean 0 ReLU": case(3, 2),
        "(2, 64, 5, 6) float32 NHWC mean 30": case(7, 7),
    }
    assert correctness._worst(cases) == {
        "float32 mean 0": case(3, 5),
        "float32 mean 30": case(7, 7),
    }
