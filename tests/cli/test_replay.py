"""The command as a user types it, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from gn_det.engine import load_runnable_config
from gn_det.engine.debug.locate_nonfinite import Step
from gn_det.engine.debug.step_file import save_step

ROOT = Path(__file__).parents[2]
SMALL = [
    *("MODEL.CLASSIFIER.NUM_CLASSES", "3", "MODEL.RESNETS.DEPTH", "18", "MODEL.DEVICE", "cpu"),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "SOLVER.AMP.ENABLED", "False"),
]


def _run(file):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "gn_det", "replay", file],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("broken", [True, False])
def test_step_of_a_classifier(tmp_path, broken):
    cfg = load_runnable_config(str(ROOT / "configs" / "pretrain" / "resnet50_gn.yaml"), SMALL)
    torch.manual_seed(0)
    model = build_model(cfg)
    if broken:
        nn.init.constant_(model.backbone.stem.conv1.weight, 3e38)
    batch = {"image": torch.full((2, 3, 32, 32), 200.0), "label": torch.tensor([0, 2])}
    path = tmp_path / "nonfinite_iter0000004_rank0.pth"
    save_step(path, cfg, model, Step([batch], [0], 4, 7))
    done = _run(path)
    assert "iteration 4, seed 7, loss scale 1" in done.stdout, done.stderr
    if broken:
        assert done.returncode == 1
        assert "micro-batch 1: loss_cls nan" in done.stdout
        assert "Micro-batch 1: backbone.stem.conv1" in done.stdout
        return
    assert done.returncode == 0
    assert "micro-batch 1: loss_cls 1" in done.stdout
    assert "All losses and gradients are finite here." in done.stdout


def test_other_file(tmp_path):
    path = tmp_path / "model_final.pth"
    torch.save({"model": {}}, path)
    done = _run(path)
    assert done.returncode == 2
    assert "holds no step of a training that failed" in done.stderr
    assert "Traceback" not in done.stderr
