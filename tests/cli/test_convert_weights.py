"""The command as a user types it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import resnet18

from gn_det.checkpoint import WeightsError, load_file
from gn_det.cli import convert_weights

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(tmp_path):
    """Return a function that runs the command in a folder of its own."""

    def run(*words, expect=0):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "gn_det", "convert-weights", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == expect, done.stdout[-2000:] + done.stderr[-2000:]
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def weights(tmp_path):
    state = resnet18(norm_layer=lambda channels: torch.nn.GroupNorm(32, channels)).state_dict()
    torch.save(state, tmp_path / "in.pth")
    return state


def test_table_and_file(tool, weights, tmp_path):
    done = tool("in.pth", "new/out.pkl")
    lines = done.stdout.splitlines()
    assert lines[0] == "in.pth: weights of timm"
    for expected in ("matched (60)", "missing (0)", "unused (0)", "left out (2)"):
        assert expected in lines
    assert any(line.split() == ["stem.conv1.weight", "conv1.weight"] for line in lines)
    assert any(line.split()[:2] == ["input_format", "RGB"] for line in lines)
    assert lines[-1] == "written to new/out.pkl"
    content = load_file(str(tmp_path / "new" / "out.pkl"))
    assert content["gn_det"]["depth"] == 18
    np.testing.assert_array_equal(
        content["model"]["res2.0.conv1.weight"], weights["layer1.0.conv1.weight"].numpy()
    )


def test_a_norm_that_is_not_filled(tool, weights, tmp_path):
    del weights["layer2.0.bn1.bias"]
    torch.save(weights, tmp_path / "in.pth")
    done = tool("in.pth", "out.pkl", expect=2)
    assert done.stderr.splitlines()[-1] == (
        "error: in.pth: 1 tensors of the backbone's norms are not filled, such as "
        "res3.0.conv1.norm.bias."
    )
    assert not (tmp_path / "out.pkl").exists()


def test_an_existing_file_stays(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.pkl").write_text("mine")
    parse = convert_weights.build_parser().parse_args
    with pytest.raises(WeightsError, match=r"^out\.pkl: it exists, and nothing was .*--overwrite"):
        convert_weights.main(parse(["in.pth", "out.pkl"]))
    assert (tmp_path / "out.pkl").read_text() == "mine"
    convert_weights.main(parse(["in.pth", "out.pkl", "--overwrite"]))
    assert "stem.conv1.weight" in load_file(str(tmp_path / "out.pkl"))["model"]


def test_with_a_config(tool, weights, tmp_path):
    config = "photo_digits_mask_rcnn_R18_gn_all.yaml"
    # its images are BGR
    done = tool("in.pth", "out.pkl", "--config", config, expect=2)
    assert "INPUT.FORMAT is BGR" in done.stderr
    assert not (tmp_path / "out.pkl").exists()


def test_a_web_page(tool, tmp_path):
    (tmp_path / "in.pkl").write_text("<!DOCTYPE html><html></html>")
    done = tool("in.pkl", "out.pkl", expect=2)
    assert done.stderr.splitlines()[-1].startswith("error: in.pkl")
