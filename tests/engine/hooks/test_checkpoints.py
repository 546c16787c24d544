import json
from types import SimpleNamespace

import pytest
import torch

from gn_det.checkpoint import Checkpointer
from gn_det.engine.hooks.checkpoints import BestCheckpoint, Checkpoints
from gn_det.utils import SaveError


class Run:
    """A run whose model is its iteration, and whose evaluations are given."""

    def __init__(self, folder, max_iter=8, period=2, metrics=None, eval_period=2, **kwargs):
        self.model = torch.nn.Linear(1, 1)
        self.checkpointer = Checkpointer(self.model, str(folder))
        self.hook = Checkpoints(self.checkpointer, period, **kwargs)
        self.best = BestCheckpoint(self.hook, "bbox/AP", eval_period)
        self.metrics = metrics or {}
        self.hook.trainer = self.best.trainer = self
        self.max_iter = max_iter
        self.storage = SimpleNamespace(latest=lambda: self.found)
        self.found = {}

    def train(self, start=0, stop=None):
        self.iter = self.start_iter = start
        self.hook.before_train()
        for iteration in range(start, stop or self.max_iter):
            self.iter = iteration
            torch.nn.init.constant_(self.model.weight, self.iter)
            self.hook.after_step()
            if self.iter in self.metrics:
                self.found = {"bbox/AP": (self.metrics[self.iter], self.iter)}
            self.best.after_step()
        if stop is None:
            self.iter += 1
            if self.iter - 1 in self.metrics:  # Detectron2 notes the last evaluation so
                self.found = {"bbox/AP": (self.metrics[self.iter - 1], self.iter)}
            self.best.after_train()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def weight(path):
    return torch.load(path, weights_only=True)["model"]["weight"].item()


def test_saves_by_period_and_at_the_end(tmp_path):
    Run(tmp_path, max_iter=5).train()
    files = ["last_checkpoint", "model_0000001.pth", "model_0000003.pth", "model_final.pth"]
    assert names(tmp_path) == files
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert weight(tmp_path / "model_final.pth") == 4
    assert torch.load(tmp_path / "model_0000003.pth", weights_only=True)["iteration"] == 3


def test_the_end_is_saved_where_a_kill_came_just_before(tmp_path):
    Run(tmp_path, max_iter=4).train()
    (tmp_path / "model_final.pth").unlink()
    resumed = Run(tmp_path, max_iter=4)
    torch.nn.init.constant_(resumed.model.weight, 3)
    resumed.train(start=4)
    assert weight(tmp_path / "model_final.pth") == 3
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 3
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_keeps_the_last_ones_across_a_resume(tmp_path):
    Run(tmp_path, keep=2).train(stop=4)
    assert names(tmp_path) == ["last_checkpoint", "model_0000001.pth", "model_0000003.pth"]
    Run(tmp_path, keep=2).train(start=4)
    left = ["last_checkpoint", "model_0000005.pth", "model_0000007.pth", "model_final.pth"]
    assert names(tmp_path) == left


def test_files_of_others_are_not_removed(tmp_path):
    for name in ("model_best.pth", "mine.pth", "model_0000099.pth", "model_final.pth"):
        (tmp_path / name).write_text("mine")
    Run(tmp_path, keep=1, max_iter=100).train(stop=6)
    for name in ("model_best.pth", "mine.pth", "model_0000099.pth", "model_final.pth"):
        assert (tmp_path / name).read_text() == "mine"
    assert "model_0000003.pth" not in names(tmp_path)
    assert "model_0000005.pth" in names(tmp_path)


def test_the_best_one_is_kept(tmp_path):
    Run(tmp_path, metrics={1: 10.0, 3: 30.0, 5: 20.0, 7: float("nan")}).train()
    assert weight(tmp_path / "model_best.pth") == 3
    assert json.loads((tmp_path / "model_best.json").read_text()) == {
        "iteration": 3,
        "bbox/AP": 30.0,
    }
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_the_best_one_is_remembered_by_a_resumed_run(tmp_path):
    Run(tmp_path, metrics={1: 30.0}).train(stop=2)
    Run(tmp_path, metrics={3: 20.0, 5: 31.0}).train(start=2, stop=6)
    assert weight(tmp_path / "model_best.pth") == 5
    Run(tmp_path, metrics={7: 30.5}).train(start=6)
    assert weight(tmp_path / "model_best.pth") == 5


def test_the_last_evaluation_can_be_the_best(tmp_path):
    Run(tmp_path, metrics={1: 10.0, 7: 11.0}).train()
    assert weight(tmp_path / "model_best.pth") == 7
    assert json.loads((tmp_path / "model_best.json").read_text())["iteration"] == 7


def test_without_evaluations_there_is_no_best_one(tmp_path):
    Run(tmp_path, eval_period=0).train()
    assert "model_best.pth" not in names(tmp_path)


@pytest.fixture
def full_disk(monkeypatch):
    """Return a switch: a list that is not empty while the disk is full."""
    full = []

    def write(path, write):
        if full:
            raise SaveError(f"{path} could not be saved: No space left on device")
        with open(path, "wb") as file:
            write(file)

    monkeypatch.setattr("gn_det.checkpoint.checkpointer.atomic_write", write)
    return full


def test_a_full_disk_stops_the_run(tmp_path, full_disk):
    run = Run(tmp_path)
    run.train(stop=2)
    full_disk.append(True)
    with pytest.raises(SaveError) as error:
        run.train(start=2)
    text = str(error.value)
    assert "model_0000003.pth could not be saved: No space left on device" in text
    assert f"{tmp_path}/model_0000001.pth is the last good checkpoint" in text
    assert "--resume" in text
    assert run.iter == 3
    assert names(tmp_path) == ["last_checkpoint", "model_0000001.pth"]


def test_a_full_disk_is_outlived(tmp_path, full_disk, caplog):
    run = Run(tmp_path, on_error="continue", keep=1)
    run.train(stop=2)
    full_disk.append(True)
    run.train(start=2, stop=4)
    assert "No space left on device" in caplog.text
    assert names(tmp_path) == ["last_checkpoint", "model_0000001.pth"]
    full_disk.clear()
    run.train(start=4, stop=6)
    assert names(tmp_path) == ["last_checkpoint", "model_0000005.pth"]


def test_the_first_checkpoint_cannot_be_saved(tmp_path, full_disk):
    full_disk.append(True)
    with pytest.raises(SaveError, match="There is none before it"):
        Run(tmp_path).train()


def test_another_metric_begins_anew(tmp_path):
    (tmp_path / "model_best.json").write_text('{"iteration": 1, "segm/AP": 99.0}')
    Run(tmp_path, max_iter=4, metrics={1: 10.0}).train()
    assert json.loads((tmp_path / "model_best.json").read_text())["bbox/AP"] == 10.0


def test_a_metric_that_is_not_evaluated_is_told_of(tmp_path, caplog):
    run = Run(tmp_path, max_iter=4)
    run.found = {"one/bbox/AP": (10.0, 1), "two/bbox/AP": (20.0, 1), "total_loss": (1.0, 1)}
    run.train()
    assert caplog.text.count("SOLVER.BEST_METRIC bbox/AP is not among") == 1
    assert "evaluated: one/bbox/AP, two/bbox/AP. No model_best.pth" in caplog.text


def test_a_repeated_last_evaluation_counts_as_the_last(tmp_path):
    """Where Detectron2 counts one on after its loop, it is at ``max_iter`` as it was before."""
    Run(tmp_path, max_iter=4).train()
    resumed = Run(tmp_path, max_iter=4)
    resumed.train(start=4)
    assert resumed.iter == 4
