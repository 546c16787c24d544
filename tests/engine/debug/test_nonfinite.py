"""A training that gives NaN: what it says, and what its file shows."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from gn_det.config import get_cfg
from gn_det.engine import GradAccumTrainer, NonFiniteError, Trainer, load_runnable_config, replay
from gn_det.engine.debug.nonfinite import image_files
from gn_det.engine.grad_accum import build_grad_accum_trainer
from gn_det.modeling.poolers import ROIPooler

MODES = {
    "lean": ["MODEL.GN.MEMORY", "lean", "SOLVER.IMS_PER_STEP", 1],
    "minimal": [
        *("MODEL.GN.MEMORY", "minimal"),
        *("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16"),
    ],
}
FILE = "nonfinite_iter0000001_rank0.pth"


class Break(HookBase):
    """Sets all weights of a parameter before iteration 1."""

    def __init__(self, name, value):
        self.name, self.value = name, value

    def before_step(self):
        if self.trainer.iter == 1:
            nn.init.constant_(self.trainer.model.get_parameter(self.name), self.value)


@pytest.fixture(scope="module")
def fail(digits_options):
    """Return a function that trains a detector on digits until it fails; it returns the message."""

    def run(folder, parameter, *keys, value=3e38):
        options = [*digits_options, *("SOLVER.WARMUP_ITERS", 0), "OUTPUT_DIR", folder, *keys]
        trainer = Trainer(load_runnable_config("mask_rcnn_R50_gn_all.yaml", [*map(str, options)]))
        trainer.register_hooks([Break(parameter, value)])
        with pytest.raises(NonFiniteError) as error:
            trainer.train()
        return str(error.value)

    return run


@pytest.mark.parametrize("mode", MODES)
def test_detector(fail, tmp_path, mode, fast_bfloat16):
    message = fail(tmp_path, "roi_heads.mask_head.predictor.weight", *MODES[mode])
    lines = message.split("\n  ")
    assert lines[0].startswith("Iteration 1: the loss is NaN or infinite (rank [0]): {")
    assert lines[1].startswith(
        "roi_heads.mask_head.predictor (Conv2d) is the first module whose output is not finite"
    )
    assert ("(Micro-batch 1 of 2.)" in lines[1]) is (mode == "lean")
    assert len(re.findall(r"photo_digits_v1/train/\d+\.png", lines[2])) == (1 + (mode != "lean"))
    assert lines[3] == f"Repeat the step with: gn-det replay {tmp_path / FILE}"
    assert lines[4].startswith("SOLVER.WARMUP_ITERS is 0 and the learning rate 0.02")
    step, report = replay(tmp_path / FILE)
    assert report.location in message
    losses = [value for of in report.losses for name, value in of.items() if name != "loss_mask"]
    assert len(losses) == 4
    assert str(losses[0]) in message or mode == "lean"  # of lean the message has means
    assert (step.iteration, step.seed) == (1, 1)
    assert len(step.batches) == (2 if mode == "lean" else 1)


def test_detector_whose_rpn_says_it_itself(fail, tmp_path):
    message = fail(tmp_path, "backbone.fpn_output3.weight", value=math.nan)
    assert "Training has diverged" in message
    assert "Weights were not finite before this step: backbone.fpn_output3.weight." in message
    assert "backbone.fpn_output3.norm (GroupNorm) is the first module" in message
    assert "look at what backbone.fpn_output3 (Conv2d) does before it" in message
    assert (tmp_path / FILE).exists()


def test_classifier(tmp_path):
    opts = [
        *("MODEL.CLASSIFIER.NUM_CLASSES", "3", "MODEL.RESNETS.DEPTH", "18"),
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "SOLVER.IMS_PER_BATCH", "2"),
        *("SOLVER.AMP.ENABLED", "False", "OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu"),
    ]
    config = Path(__file__).parents[3] / "configs" / "pretrain" / "resnet50_gn.yaml"
    cfg = load_runnable_config(str(config), opts)
    model = build_model(cfg)
    batch = {
        "image": torch.full((2, 3, 32, 32), 100.0),
        "label": torch.tensor([0, 2]),
        "file_name": ["blue/0.png", "red/1.png"],
    }
    batch["image"][1, 0, 0, 0] = math.inf
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trainer = build_grad_accum_trainer(cfg, model, [batch], optimizer)
    trainer.iter, trainer.seed = 1, 3
    with EventStorage(1), pytest.raises(NonFiniteError) as error:
        trainer.run_step()
    message = str(error.value)
    assert "The image itself is not finite: red/1.png." in message
    assert "Images: blue/0.png, red/1.png" in message
    _, report = replay(tmp_path / FILE)
    assert report.location in message


class Unsteady(nn.Module):
    """Its loss is infinite ``times`` times; its buffer counts."""

    def __init__(self, times):
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))
        self.times = times

    def forward(self, batch):
        self.times -= 1
        return {"loss": self.w / 0 if self.times >= 0 else self.w * 1.0}


def message_of(model, cfg=None, seed=1):
    trainer = GradAccumTrainer(model, ["batch"], torch.optim.SGD(model.parameters(), 0.1))
    trainer.cfg, trainer.seed, trainer.iter = cfg, seed, 1
    with EventStorage(1), pytest.raises(NonFiniteError) as error:
        trainer.run_step()
    assert model.w == 1
    return str(error.value)


def test_a_step_that_is_finite_when_repeated():
    assert "Repeated, the step is finite: the arithmetic" in message_of(Unsteady(1))
    message = message_of(Unsteady(1), seed=None)
    assert "Repeated with other random numbers (the run has no seed), the step" in message
    assert "The step is not saved: its model is of no YAML config." in message


def test_what_cannot_be_saved_is_said(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    (tmp_path / FILE).mkdir()
    message = message_of(Unsteady(2), cfg)
    assert "the model (Unsteady) is the first module whose output is not finite (loss)" in message
    assert f"The step is not saved: {tmp_path / FILE} could not be saved: " in message


def test_a_reason_that_is_not_found():
    class Once(Unsteady):
        def forward(self, batch):
            if self.times <= 0:
                raise KeyError("gone")
            return super().forward(batch)

    message = message_of(Once(1))
    assert message.startswith("Iteration 1: the loss is NaN or infinite")
    assert "The reason could not be found: KeyError('gone')" in message


@pytest.mark.parametrize(
    ("batch", "names"),
    [
        ([{"file_name": "a"}, {"image": 0}], ["a", "without a name"]),
        ({"file_name": ["a", "b"]}, ["a", "b"]),
        ({"image": 0}, []),
        ("other", []),
    ],
)
def test_image_files(batch, names):
    assert image_files(batch) == names


def test_a_bad_box_that_is_found_in_backward(tmp_path, tiny_cfg, batch, monkeypatch):
    """On a GPU the pooler reads only there what it found. Message and file are as for forward."""

    def pool(self, x, box_lists):
        features = forward(self, x, box_lists)
        features.register_hook(refuse)
        return features

    def refuse(gradient):
        raise FloatingPointError("Box 3 of image 0 of the batch is [nan, 0, 1, 1]: not finite.")

    forward = ROIPooler.forward
    monkeypatch.setattr(ROIPooler, "forward", pool)
    cfg = tiny_cfg("OUTPUT_DIR", str(tmp_path), "SOLVER.WARMUP_ITERS", 0)
    model = build_model(cfg)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = build_grad_accum_trainer(
        cfg, model, [batch], torch.optim.SGD(model.parameters(), 0.1)
    )
    trainer.iter, trainer.seed = 1, 3
    with EventStorage(1), pytest.raises(NonFiniteError) as error:
        trainer.run_step()
    lines = str(error.value).split("\n  ")
    assert lines[0] == "Iteration 1: Box 3 of image 0 of the batch is [nan, 0, 1, 1]: not finite."
    assert lines[1].startswith("All outputs of modules were finite until this: Box 3")
    assert lines[-2] == f"Repeat the step with: gn-det replay {tmp_path / FILE}"
    assert lines[-1].startswith("SOLVER.WARMUP_ITERS is 0")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    _, report = replay(tmp_path / FILE)
    assert report.location == lines[1]


@pytest.fixture
def fail_in_one_process(tmp_path):
    """Return a function that runs the script beside this file; it returns the ended process."""

    def run(*words):
        script = Path(__file__).with_name("fail_in_one_process.py")
        done = subprocess.run(
            [sys.executable, "-W", "ignore", script, tmp_path, *words],
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 1, done.stderr
        return done

    return run


def test_a_bad_box_of_one_process_ends_all(fail_in_one_process, tmp_path):
    """The other one waits for gradients; gloo tells it that they do not come."""
    done = fail_in_one_process("box")
    assert done.stderr.count("error: Iteration 0: Box 3 of image 0 is not finite") == 1
    assert [p.name for p in tmp_path.glob("nonfinite*")] == ["nonfinite_iter0000000_rank1.pth"]


def test_two_processes(fail_in_one_process, tmp_path):
    """The one whose numbers are not finite says why, and both end with that."""
    done = fail_in_one_process()
    assert "Traceback" not in done.stderr
    gradient, of_sum = done.stdout.split("Iteration ")[1:]
    assert "rank 0: Repeated by this process alone, the step is finite." in gradient
    assert "rank 1: a (Linear) is the first module, in backward, whose output's grad" in gradient
    saved = {"nonfinite_iter0000000_rank1.pth", "nonfinite_iter0000002_rank1.pth"}
    if math.isfinite(torch.tensor([3e38]).norm()):
        assert of_sum.count("Repeated by this process alone, the step is finite.") == 2
        assert "No process's own step shows it" in of_sum
    else:  # PyTorch 2.3 squares the number: each process has an infinite norm by itself
        assert of_sum.count("so large that its norm is not.") == 2
        saved |= {f"nonfinite_iter0000001_rank{rank}.pth" for rank in (0, 1)}
    assert done.stderr.count("error: Iteration 2: ") == 1  # the same of both
    assert "the loss is NaN or infinite (rank [1])" in done.stderr
    assert "rank 0: " not in done.stderr
    assert "rank 1: b (Bad) is the first module whose output is not finite" in done.stderr
    assert {p.name for p in tmp_path.glob("nonfinite*")} == saved
