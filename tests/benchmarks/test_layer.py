import argparse
import json

import pytest
import torch
import torch.nn.functional as F

from benchmarks import layer
from gn_det.layers import GroupNorm


def _run(*words):
    parser = argparse.ArgumentParser()
    layer.add_arguments(parser)
    small = ["--height", "64", "--width", "96", "--images", "1", "--rois", "8", "--repeats", "2"]
    return layer.run(parser.parse_args([*small, *words]))


@pytest.fixture(scope="module")
def record():
    return _run("--no-compile")


def test_shapes_are_those_of_r50_fpn():
    shapes = layer.layer_shapes(2, 480, 640, 1024)
    assert shapes["stem"] == (2, 64, 240, 320)
    assert shapes["res2 outer, p2"] == (2, 256, 120, 160)
    assert shapes["res4 outer"] == (2, 1024, 30, 40)
    assert shapes["p5"] == (2, 256, 15, 20)
    assert shapes["box head"] == (1024, 256, 7, 7)
    assert shapes["mask head"] == (256, 256, 14, 14)


def test_every_layer_in_every_way(record):
    ways = [name for name in layer.WAYS if not name.startswith("compiled")]
    assert list(record["ways"]) == ways
    assert list(record["layers"]) == list(layer.layer_shapes(1, 64, 96, 8))
    for measured in record["layers"].values():
        assert list(measured["ways"]) == ways
        for row in measured["ways"].values():
            for kind in ("forward", "training"):
                assert len(row[kind]["times"]) == 2
                assert row[kind]["gb_per_second"] > 0
        assert measured["ways"]["stock-fp32"]["forward"]["ratio"] == 1
    assert json.loads(json.dumps(record)) == record


def test_bytes_are_counted(record):
    rows = record["layers"]["res3 inner"]["ways"]
    numel = 128 * 8 * 12
    statistics = 2 * 32 * 4
    # the input, and the output for ReLU
    assert rows["stock-fp32"]["saved_bytes"] == 2 * numel * 4 + statistics
    for name in ("gn_det-bf16", "gn_det-bf16-channels_last"):
        assert rows[name]["saved_bytes"] == 2 * numel * 2 + statistics
    row = rows["stock-fp32"]
    assert row["forward"]["gb_per_second"] == pytest.approx(
        2 * numel * 4 / row["forward"]["seconds"] / 1e9
    )
    assert row["training"]["gb_per_second"] == pytest.approx(
        5 * numel * 4 / row["training"]["seconds"] / 1e9
    )


@pytest.mark.parametrize("name", layer.WAYS)
def test_ways_do_the_same(name, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    way, norm = layer.WAYS[name], GroupNorm(64)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 64, 6, 8)
    arranged = way.arrange(x)
    assert arranged.dtype == (torch.bfloat16 if way.precision == "bf16" else torch.float32)
    assert arranged.is_contiguous() is not way.channels_last
    assert arranged.data_ptr() != x.data_ptr()
    expected = F.relu(F.group_norm(x, 32, norm.weight, norm.bias))
    run = layer._Layer(way, norm, x)
    y = run._run()
    assert y.dtype == arranged.dtype
    limit = 0.05 if way.precision == "bf16" else 1e-5
    torch.testing.assert_close(y.float(), expected, rtol=limit, atol=limit)


def test_table(record):
    lines = layer.table(record).splitlines()
    rows = [line for line in lines if "stock-fp32 " in line]
    assert len(rows) == 13
    assert rows[0].startswith("stem 1x64x32x48 ")
    assert "torch.compile" not in lines[-1]


def test_without_a_compiler(monkeypatch):
    def refuse(function, dynamic):
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", refuse)
    assert layer._try_to_compile() == ("RuntimeError: no C++ compiler", None)
    monkeypatch.setattr(layer, "layer_shapes", lambda *args: {"stem": (1, 64, 4, 6)})
    record = _run()
    assert not any(name.startswith("compiled") for name in record["ways"])
    assert layer.table(record).splitlines()[-1].endswith("RuntimeError: no C++ compiler")


def test_with_a_compiler(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    monkeypatch.setattr(layer, "layer_shapes", lambda *args: {"stem": (1, 64, 4, 6)})
    record = _run()
    assert list(record["layers"]["stem"]["ways"]) == list(layer.WAYS)
    assert record["compile_error"] is None
    assert record["first_compilation_seconds"] > 0
