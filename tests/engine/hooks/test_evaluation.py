import json

import pytest
import torch
from detectron2.engine import hooks
from detectron2.engine.train_loop import TrainerBase

from gn_det.checkpoint import Checkpointer
from gn_det.engine.hooks.checkpoints import BestCheckpoint, Checkpoints
from gn_det.engine.hooks.evaluation import Evaluation
from gn_det.engine.hooks.progress import build_writers
from gn_det.evaluation import read_metrics

APS = {1: 1.0, 3: 5.0}  # after two iterations and after four; later ones have 2


class Run(TrainerBase):
    """Six iterations, evaluated and saved after every second one; it may be stopped in one."""

    def __init__(self, folder, stopped_in=None):
        super().__init__()
        self.stopped_in, self.evaluated = stopped_in, []
        checkpoints = Checkpoints(Checkpointer(torch.nn.Linear(1, 1), str(folder)), period=2)
        self.register_hooks(
            [
                checkpoints,
                Evaluation(2, self.evaluate, str(folder)),
                BestCheckpoint(checkpoints, "bbox/AP", 2),
                hooks.PeriodicWriter(build_writers(str(folder), 6), 2),
            ]
        )

    def evaluate(self):
        if self.iter == self.stopped_in:
            raise KeyboardInterrupt
        self.evaluated.append(self.iter)
        return {"bbox": {"AP": APS.get(self.iter, 2.0)}}

    def run_step(self):
        self.storage.put_scalar("total_loss", 1.0)


def stop(folder, iteration):
    with pytest.raises(KeyboardInterrupt):
        Run(folder, stopped_in=iteration).train(0, 6)


def found(folder):
    rows = read_metrics(folder / "metrics.json")
    return {row["iteration"]: row["bbox/AP"] for row in rows if "bbox/AP" in row}


def test_one_that_the_run_was_stopped_in_is_made_up_for(tmp_path):
    stop(tmp_path, 3)
    assert found(tmp_path) == {1: 1.0}
    run = Run(tmp_path)
    run.train(4, 6)
    assert run.evaluated == [3, 6]  # Detectron2 counts the last one so
    assert found(tmp_path) == {1: 1.0, 3: 5.0, 6: 2.0}
    assert json.loads((tmp_path / "model_best.json").read_text()) == {
        "iteration": 3,
        "bbox/AP": 5.0,
    }
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 3


def test_one_that_was_made_is_not_made_again(tmp_path):
    stop(tmp_path, 3)
    run = Run(tmp_path)
    run.train(2, 6)
    assert run.evaluated == [3, 6]


@pytest.mark.parametrize("start", [0, 3])
def test_none_is_due(tmp_path, start):
    run = Run(tmp_path)
    run.train(start, 6)
    assert run.evaluated == [1, 3, 6][start // 2 :]


def test_its_time_is_noted(tmp_path):
    Run(tmp_path).train(0, 6)
    times = [row for row in read_metrics(tmp_path / "metrics.json") if "eval_time" in row]
    assert [row["iteration"] for row in times] == [1, 3, 6]
    assert all(row["eval_time"] >= 0 for row in times)


def test_none_after_an_error_in_the_last_step(tmp_path):
    class Fails(Run):
        def run_step(self):
            super().run_step()
            if self.iter == 5:
                raise ZeroDivisionError

    run = Fails(tmp_path)
    with pytest.raises(ZeroDivisionError):
        run.train(0, 6)
    assert run.evaluated == [1, 3]
