"""What a resumed run does with keys that have changed, by a Trainer of a tiny network."""

import argparse
import itertools
import shutil
from contextlib import nullcontext

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from gn_det.checkpoint import Checkpointer, Report, load_file
from gn_det.config import ConfigError
from gn_det.engine import Trainer, load_runnable_config
from gn_det.engine.run_record import RunRecord, plain_values
from gn_det.engine.setup import open_output_folder

BASE = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "DATASETS.TEST": (),
    "SOLVER.BASE_LR": 0.1,
    "SOLVER.MAX_ITER": 12,
    "SOLVER.STEPS": (8,),
    "SOLVER.WARMUP_ITERS": 3,
    "SOLVER.CHECKPOINT_PERIOD": 6,
    "SOLVER.BEST_METRIC": "",
    "SOLVER.IMS_PER_BATCH": 2,
    "SEED": 1,
}


class Tiny(nn.Module):
    """A linear layer and a norm: a weight, biases, and the parameters of a norm."""

    def __init__(self, width=4):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.norm = nn.Linear(1, width), nn.GroupNorm(2, width)

    def forward(self, batch):
        return {"loss": self.norm(self.fc(torch.stack(batch))).square().mean()}


class TinyTrainer(Trainer):
    """Notes the options of the optimizer in each step."""

    width = 4

    @classmethod
    def build_model(cls, cfg):
        return Tiny(cls.width)

    @classmethod
    def build_train_loader(cls, cfg):
        return itertools.repeat([torch.tensor([1.0]), torch.tensor([3.0])])

    def run_step(self):
        """Run a step."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        for group in self.optimizer.param_groups:
            options = [group[key] for key in ("lr", "momentum", "weight_decay", "nesterov")]
            self.seen.update({(self.iter, names[id(p)]): options for p in group["params"]})
        super().run_step()


def run(folder, keys=None, resume=False, kind=TinyTrainer):
    """Train, and return the options in each step and the trainer."""
    values = {**BASE, "OUTPUT_DIR": str(folder), **(keys or {})}
    opts = list(itertools.chain.from_iterable(values.items()))
    trainer = kind(load_runnable_config("mask_rcnn_R50_gn_all.yaml", opts))
    trainer.seen = {}
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer.seen, trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of twelve iterations."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


@pytest.fixture
def half(whole, tmp_path):
    """The folder of the same run after six iterations."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(whole / "model_0000005.pth", folder)
    return folder


def state_of(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)


def said(caplog):
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("gn_det.engine")]
    return "\n".join(ours)


def test_a_run_with_the_same_config_is_the_same_and_silent(whole, half, caplog):
    caplog.set_level("INFO", logger="gn_det")
    run(half, resume=True)
    for name, value in state_of(half)["model"].items():
        assert torch.equal(value, state_of(whole)["model"][name]), name
    assert "changed" not in caplog.text
    assert "Resuming from iteration 6." in caplog.text


CHANGES = {
    "rate and momentum": {"SOLVER.BASE_LR": 0.03, "SOLVER.MOMENTUM": 0.5},
    "decay": {"SOLVER.WEIGHT_DECAY": 0.2},
    "decay of norms": {"SOLVER.WEIGHT_DECAY_NORM": 0.3},
    "biases": {"SOLVER.BIAS_LR_FACTOR": 2.0, "SOLVER.WEIGHT_DECAY_BIAS": 0.1},
    "nesterov": {"SOLVER.NESTEROV": True},
    "length": {"SOLVER.MAX_ITER": 14},
    "steps": {"SOLVER.STEPS": (4, 10), "SOLVER.GAMMA": 0.5},
    "cosine": {"SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR", "SOLVER.BASE_LR_END": 0.01},
    "warm-up": {"SOLVER.WARMUP_ITERS": 9, "SOLVER.WARMUP_FACTOR": 0.5},
    "clipping": {"SOLVER.CLIP_GRADIENTS.ENABLED": True},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_changed_keys_are_obeyed_and_named(changes, half, tmp_path, caplog):
    """In each step the options are those of a run that had these keys from the start."""
    fresh, _ = run(tmp_path / "fresh", changes)
    caplog.clear()
    seen, trainer = run(half, changes, resume=True)
    length = changes.get("SOLVER.MAX_ITER", 12)
    assert seen == {key: value for key, value in fresh.items() if key[0] >= 6}
    assert {iteration for iteration, _ in seen} == set(range(6, length))
    for key, value in changes.items():
        (line,) = [line for line in said(caplog).splitlines() if line.startswith(f"  {key} ")]
        assert line.endswith(f" -> {list(value) if isinstance(value, tuple) else value}")
    assert said(caplog).count("->") == len(changes)
    # the next checkpoint has the new values
    assert state_of(half)["config"]["SOLVER.MAX_ITER"] == length
    caplog.clear()
    run(half, changes, resume=True)
    assert "->" not in said(caplog)


def test_momentum_stays_with_its_parameter_in_other_groups(half):
    """The norm gets a group of its own, behind which the parameters have other numbers."""
    saved = torch.load(half / "model_0000005.pth", weights_only=True)["trainer"]["_trainer"]
    names = list(itertools.chain.from_iterable(saved["parameters"]))
    before = {
        name: saved["optimizer"]["state"][i]["momentum_buffer"] for i, name in enumerate(names)
    }

    class Looks(TinyTrainer):
        def run_step(self):
            if self.iter == 6:
                for name, parameter in self.model.named_parameters():
                    momentum = self.optimizer.state[parameter]["momentum_buffer"]
                    assert torch.equal(momentum, before[name]), name
            super().run_step()

    seen, _ = run(half, {"SOLVER.WEIGHT_DECAY_NORM": 0.3}, resume=True, kind=Looks)
    assert seen[6, "norm.weight"][2] == 0.3
    assert seen[6, "fc.weight"][2] == 0.0001


def test_clipping_and_averages_of_the_new_config(half):
    keys = {"SOLVER.CLIP_GLOBAL_NORM": 1e-3, "SOLVER.EMA_DECAY": 0.5}
    _, trainer = run(half, keys, resume=True)
    assert trainer._trainer.clip_norm == 1e-3
    assert "average" in state_of(half)["trainer"]["_trainer"]
    with pytest.raises(ConfigError, match="SOLVER.EMA_DECAY is 0, but the run to resume has"):
        run(half, {"SOLVER.MAX_ITER": 13}, resume=True)


def test_a_run_that_is_over_says_so(whole, tmp_path, caplog):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    seen, _ = run(folder, resume=True)
    assert seen == {}
    assert "Nothing is left to train: the run has done 12 iterations, and its length is 12." in (
        caplog.text
    )
    assert "A larger SOLVER.MAX_ITER continues it." in caplog.text
    seen, _ = run(folder, {"SOLVER.MAX_ITER": 5}, resume=True)
    assert seen == {}
    assert "has done 12 iterations, and its length is 5." in caplog.text
    assert state_of(folder)["iteration"] == 11
    caplog.clear()
    seen, _ = run(folder, {"SOLVER.MAX_ITER": 13}, resume=True)
    assert {iteration for iteration, _ in seen} == {12}
    assert "Nothing is left" not in caplog.text
    assert state_of(folder)["iteration"] == 12


@pytest.mark.parametrize(("warmup", "warned"), [(11, False), (12, True), (100, True)])
def test_a_warm_up_as_long_as_the_run_is_warned_of(warmup, warned, tmp_path, caplog):
    run(tmp_path, {"SOLVER.WARMUP_ITERS": warmup})
    message = f"SOLVER.MAX_ITER is 12 and SOLVER.WARMUP_ITERS {warmup}: the learning rate rises to"
    assert (message in caplog.text) is warned


def test_what_a_run_cannot_change(half):
    class Wide(TinyTrainer):
        width = 6

    with pytest.raises(ConfigError) as error:
        run(half, {"MODEL.RESNETS.DEPTH": 101}, resume=True, kind=Wide)
    assert str(error.value).startswith(
        "The run to resume is of another network: fc.weight has the shape (4, 1) there and (6, 1) "
        "here. Changed since: MODEL.RESNETS.DEPTH 50 -> 101. Set the MODEL keys of that run; or"
    )
    for key, value, words in (
        ("MODEL.GN.NUM_GROUPS", 16, r"32 -> 16: .* Set MODEL\.GN\.NUM_GROUPS 32, or start a new"),
        ("MODEL.PIXEL_STD", [2.0, 1.0, 1.0], r"compute something else\. Set MODEL\.PIXEL_STD \["),
        ("INPUT.WINDOW", (0, 100), r"\[\] -> \[0, 100\]: .* Set INPUT\.WINDOW \[\]"),
        ("MODEL.FPN.FUSE_TYPE", "avg", r"sum -> avg: .* Set MODEL\.FPN\.FUSE_TYPE sum"),
        ("INPUT.FORMAT", "RGB", r"BGR -> RGB: .* Set INPUT\.FORMAT BGR"),
        ("SEED", 2, r"1 -> 2: .*Set SEED -1: the run keeps its seed"),
    ):
        with pytest.raises(ConfigError, match=f"^{key} .*{words}"):
            run(half, {key: value}, resume=True)
    assert [path.name for path in half.glob("*.pth")] == ["model_0000005.pth"]


def test_config_yaml_is_that_of_the_run(half, tmp_path, caplog):
    """A resume that is refused leaves it, one that is accepted writes the new keys."""
    config = half / "config.yaml"
    config.write_text("of the user")
    args = argparse.Namespace(config_file="", resume=True, eval_only=False)
    for keys, accepted in (({"SEED": 2}, False), ({"SOLVER.BASE_LR": 0.03}, True)):
        values = {**BASE, "OUTPUT_DIR": str(half), **keys}
        opts = list(itertools.chain.from_iterable(values.items()))
        cfg = load_runnable_config("mask_rcnn_R50_gn_all.yaml", opts)
        open_output_folder(cfg, args, str(half))
        assert config.read_text() == "of the user"
        with nullcontext() if accepted else pytest.raises(ConfigError, match="^SEED 1 -> 2"):
            TinyTrainer(cfg).resume_or_load(resume=True)
        assert (config.read_text() == cfg.dump()) is accepted
    caplog.set_level("INFO", "gn_det")
    run(tmp_path / "new", {"SOLVER.MAX_ITER": 6}, resume=True)
    assert "new holds no checkpoint: a new run starts." in caplog.text


def test_what_is_taken_and_has_no_effect_is_said(half, caplog):
    run(half, {"MODEL.WEIGHTS": "other.pth", "SEED": -1}, resume=True)
    assert (
        "MODEL.WEIGHTS '' -> other.pth (not loaded: the run continues from its own" in caplog.text
    )
    assert "SEED 1 -> -1 (the run keeps its seed)" in caplog.text
    assert state_of(half)["trainer"]["_trainer"]["seed"] == 1


@pytest.mark.parametrize("changes", [{}, {"SOLVER.BASE_LR": 0.03, "SOLVER.WEIGHT_DECAY": 0.2}])
def test_a_run_of_an_earlier_version(changes, whole, half, tmp_path, caplog):
    path = half / "model_0000005.pth"
    state = torch.load(path, weights_only=True)
    for key in ("config", "thing_classes"):
        del state[key]
    for key in ("optimizer_class", "parameters"):
        del state["trainer"]["_trainer"][key]
    torch.save(state, path)
    fresh, _ = run(tmp_path / "fresh", changes)
    with caplog.at_level("INFO", "gn_det"):
        seen, _ = run(half, changes, resume=True)
    assert seen == {key: value for key, value in fresh.items() if key[0] >= 6}
    assert "of an earlier version, and does not say which config" in caplog.text
    same = [torch.equal(v, state_of(whole)["model"][n]) for n, v in state_of(half)["model"].items()]
    assert all(same) is (not changes)


def test_what_a_users_hook_made_stays_where_no_solver_key_changed(half, tmp_path):
    class Halves(TinyTrainer):
        def after_step(self):
            if self.iter == 1:
                for group in self.optimizer.param_groups:
                    group["weight_decay"] = 0.7
            super().after_step()

    folder = tmp_path / "own"
    run(folder, kind=Halves)
    (folder / "model_final.pth").unlink()
    (folder / "model_0000011.pth").unlink()
    seen, _ = run(folder, {"DATALOADER.NUM_WORKERS": 1}, resume=True, kind=Halves)
    assert {options[2] for options in seen.values()} == {0.7}


def test_the_files_are_read_safely_and_by_detectron2(whole):
    path = str(whole / "model_final.pth")
    entries = load_file(path)
    assert entries["config"]["SOLVER.BASE_LR"] == 0.1
    assert entries["config"]["images per micro-batch"] == 2
    assert entries["thing_classes"][:2] == ["person", "bicycle"]  # DATASETS.TRAIN is COCO
    model = Tiny()
    model.fc.weight.data.zero_()
    assert DetectionCheckpointer(model).load(path)["thing_classes"] == entries["thing_classes"]
    assert torch.equal(model.fc.weight, entries["model"]["fc.weight"])
    assert Checkpointer(model).load(path)["iteration"] == 11


def test_plain_values():
    nested = {"a": {"b": (1, [2.5])}, "c": [{"d": None}, {"d": nn.Linear}], "e": [], "f": nn.ReLU()}
    assert dict(plain_values(nested)) == {
        "a.b": [1, [2.5]],
        "c.0.d": None,
        "c.1.d": "torch.nn.modules.linear.Linear",
        "e": [],
        "f": "torch.nn.modules.activation.ReLU",
    }


def test_keys_that_one_version_alone_has():
    """A key that is not in the record had its default."""
    record = RunRecord({"SOLVER.BASE_LR": 0.1, "SOLVER.EMA_DECAY": 0.5, "OUTPUT_DIR": "b"})
    assert "OUTPUT_DIR" not in record.state_dict()
    old = {"SOLVER.BASE_LR": 0.1, "SOLVER.GONE": 3}
    record.compare({"config": old}, Report("gn_det"), nn.Module())
    assert record.changes == {"SOLVER.EMA_DECAY": (0.0, 0.5), "SOLVER.GONE": (3, None)}
    record.compare({}, Report("gn_det"), nn.Module())
    assert record.changes is None
