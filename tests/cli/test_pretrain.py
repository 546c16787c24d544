"""The command as a user types it, in a process of its own."""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gn_det.cli import pretrain
from gn_det.config import config_folder

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-W", "ignore", "-m", "gn_det", "pretrain"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "DETECTRON2_DATASETS": "datasets"}


def _run(*words, cwd):
    return subprocess.run(
        [*COMMAND, *words],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_two_processes_train_and_one_evaluates(tmp_path, make_image_folder):
    make_image_folder(tmp_path / "datasets" / "imagenet")
    small = shlex.split(
        "MODEL.DEVICE cpu MODEL.CLASSIFIER.NUM_CLASSES 3 MODEL.RESNETS.DEPTH 18 "
        "MODEL.RESNETS.RES2_OUT_CHANNELS 64 PRETRAIN.CROP 32 PRETRAIN.RESIZE 36 PRETRAIN.EPOCHS 1 "
        "DATALOADER.NUM_WORKERS 0 SOLVER.IMS_PER_BATCH 4 SOLVER.AMP.ENABLED False"
    )
    words = ["--config", "resnet50_gn.yaml"]
    done = _run(*words, "--num-gpus", "2", *small, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "6 images, 1 iterations, learning rate 0.0015625" in done.stdout
    assert (tmp_path / "output" / "model_final.pth").exists()
    weights = ["MODEL.WEIGHTS", "output/model_final.pth", "OUTPUT_DIR", "eval"]
    done = _run(*words, "--eval-only", *small, *weights, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "top1_error" in done.stdout


def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path, fashion_folder):
    words = shlex.split(
        "--config fashion_resnet18_gn.yaml MODEL.DEVICE cpu PRETRAIN.CROP 32 PRETRAIN.EPOCHS 3 "
        f"SOLVER.IMS_PER_BATCH 4 SEED 1 PRETRAIN.ROOT {fashion_folder}"
    )
    done = _run(*words, "OUTPUT_DIR", "whole", cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    words += ["OUTPUT_DIR", "parts"]
    process = subprocess.Popen(
        [*COMMAND, *words],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first = tmp_path / "parts" / "model_0000004.pth"  # of the first of three epochs
    while not first.exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait(60)
    assert not (tmp_path / "parts" / "model_final.pth").exists()
    done = _run("--resume", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    one, two = (
        torch.load(tmp_path / folder / "model_final.pth", weights_only=True)["model"]
        for folder in ("whole", "parts")
    )
    assert set(one) == set(two)
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "error: PRETRAIN.ROOT imagenet: there is no folder imagenet and none datasets/image"),
        (["PRETRAIN.EPOCH", "3"], "error: There is no config key PRETRAIN.EPOCH."),
    ],
)
def test_errors_are_one_line(tmp_path, words, message):
    done = _run("--config", "resnet50_gn.yaml", "MODEL.DEVICE", "cpu", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in done.stderr


def test_examples_name_configs_that_exist():
    examples = [line for line in pretrain.__doc__.splitlines() if line.startswith("gn-det ")]
    assert len(examples) == 8
    for line in examples:
        name = Path(shlex.split(line)[3]).name
        assert name == "FILE" or (config_folder() / "pretrain" / name).is_file()
