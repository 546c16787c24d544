"""The order of a run: what is saved, evaluated and written, by a Trainer of a tiny network."""

import contextlib
import gc
import io
import itertools
import json
import signal
import weakref

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook
from torch import nn

from gn_det.engine import Trainer, load_runnable_config


class Norm(nn.Module):
    """Trains the weight of a batch norm of one channel."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, batch):
        return {"loss": self.norm(torch.stack(batch)).square().mean()}


class TinyTrainer(Trainer):
    """Its batches have the mean 2 and the biased variance 1, and its AP is the iteration."""

    @classmethod
    def build_model(cls, cfg):
        return Norm()

    @classmethod
    def build_train_loader(cls, cfg):
        return itertools.repeat([torch.tensor([1.0]), torch.tensor([3.0])])

    def test(self, cfg, model):
        return {"bbox": {"AP": float(self.iter)}}


class ValidationLoss(HookBase):
    """Writes the iteration every ``period`` iterations, and after the last one."""

    def __init__(self, period):
        self.period = period

    def after_step(self):
        done = self.trainer.iter + 1
        if done % self.period == 0 or done == self.trainer.max_iter:
            self.write()

    def write(self):
        loss = float(self.trainer.iter)  # the number itself, not the median of the last ones
        self.trainer.storage.put_scalar("validation_loss", loss, smoothing_hint=False)


class ValidationLossAtTheEnd(ValidationLoss):
    """Writes after the training, where Detectron2 evaluates too."""

    def after_step(self):
        if self.trainer.iter + 1 < self.trainer.max_iter:
            super().after_step()

    def after_train(self):
        self.write()


PLACES = {
    "as users of Detectron2 do": lambda hooks, hook: hooks.insert(-1, hook),
    "last": lambda hooks, hook: hooks.append(hook),
    "first": lambda hooks, hook: hooks.insert(0, hook),
}


def trained(kind, folder, *keys):
    """Train, and return the trainer and the rows of metrics.json."""
    opts = [
        "MODEL.DEVICE",
        "cpu",
        "MODEL.WEIGHTS",
        "",
        "OUTPUT_DIR",
        str(folder),
        "SOLVER.CLIP_GLOBAL_NORM",
        1.0,
    ]
    opts += ["DATASETS.TEST", ("tiny_val",), "SOLVER.CHECKPOINT_PERIOD", 100]
    trainer = kind(load_runnable_config("mask_rcnn_R50_gn_all.yaml", [*opts, *keys]))
    trainer.resume_or_load(resume=False)
    trainer.train()
    lines = (folder / "metrics.json").read_text().splitlines()
    return trainer, [json.loads(line) for line in lines]


def losses(rows):
    return {row["iteration"]: row["validation_loss"] for row in rows if "validation_loss" in row}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("hook", "last"), [(ValidationLoss, 0), (ValidationLossAtTheEnd, 1)], ids=["step", "end"]
)
@pytest.mark.parametrize(
    ("period", "evaluations", "max_iter"),
    [(3, 3, 8), (3, 3, 9), (20, 0, 47), (2, 2, 5)],
)
def test_what_a_users_hook_writes_is_in_metrics_json(
    tmp_path, stream, place, hook, last, period, evaluations, max_iter
):
    class UserTrainer(TinyTrainer):
        def build_hooks(self):
            hooks = super().build_hooks()
            PLACES[place](hooks, hook(period))
            return hooks

    keys = ["TEST.EVAL_PERIOD", evaluations, "SOLVER.MAX_ITER", max_iter]
    with contextlib.redirect_stderr(stream()) as stderr:
        _, rows = trained(UserTrainer, tmp_path, *keys)
    end = max_iter - 1 + last  # Detectron2 counts one on after its loop
    wanted = [*range(period - 1, max_iter - 1, period), end]
    assert losses(rows) == {iteration: float(iteration) for iteration in wanted}
    assert rows[-1]["bbox/AP"] == max_iter
    assert ("train: 100%" in stderr.getvalue()) is stderr.isatty()


def test_a_hook_that_is_registered_later_is_written(tmp_path):
    """As Detectron2's tools/train_net.py does with test-time augmentation."""

    class WithTTA(TinyTrainer):
        def __init__(self, cfg):
            super().__init__(cfg)
            results = {"bbox_TTA": {"AP": 50.0}}
            self.register_hooks([None, EvalHook(0, lambda: results), ValidationLoss(1)])

    _, rows = trained(WithTTA, tmp_path, "SOLVER.MAX_ITER", 3)
    assert rows[-1]["bbox_TTA/AP"] == 50.0
    assert losses(rows)[2] == 2.0


def test_writers_of_a_users_own(tmp_path):
    class Silent(TinyTrainer):
        def build_writers(self):
            return super().build_writers()[-2:-1]  # metrics.json alone

    _, rows = trained(Silent, tmp_path, "SOLVER.MAX_ITER", 3)
    assert rows[-1]["bbox/AP"] == 3.0
    assert not list(tmp_path.glob("events.out*"))


def test_the_best_checkpoint_is_of_the_best_evaluation(tmp_path):
    class Falls(TinyTrainer):
        def test(self, cfg, model):
            return {"bbox": {"AP": {1: 10.0, 3: 30.0}.get(self.iter, 20.0)}}

    trained(Falls, tmp_path, "TEST.EVAL_PERIOD", 2, "SOLVER.MAX_ITER", 7)
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert best["iteration"] == 3


def test_the_handlers_of_signals_are_restored(tmp_path):
    class Fails(TinyTrainer):
        def test(self, cfg, model):
            raise ZeroDivisionError

    before = signal.getsignal(signal.SIGTERM)
    trained(TinyTrainer, tmp_path / "good", "SOLVER.MAX_ITER", 2)
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(ZeroDivisionError):
        trained(Fails, tmp_path / "bad", "SOLVER.MAX_ITER", 2)
    assert signal.getsignal(signal.SIGTERM) is before


def test_checkpoints_have_the_keys_of_earlier_ones(tmp_path):
    """So that a run of an earlier version can be resumed."""
    trained(TinyTrainer, tmp_path, "SOLVER.MAX_ITER", 2, "SOLVER.EMA_DECAY", 0.5)
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)
    later = {"thing_classes", "config"}
    assert set(state) == {"model", "trainer", "iteration"} | later
    assert set(state["trainer"]) == {"iteration", "hooks", "_trainer"}
    assert set(state["trainer"]["hooks"]) == {"LRScheduler"}
    steps = state["trainer"]["_trainer"]
    later = {"optimizer_class", "parameters"}
    assert set(steps) == {"iteration", "optimizer", "grad_scaler", "seed", "average"} | later
    assert set(steps["average"]) == {"applied", "other"}


def test_a_trainer_that_is_gone_holds_no_memory(tmp_path):
    trainer, _ = trained(TinyTrainer, tmp_path, "SOLVER.MAX_ITER", 2)
    model = weakref.ref(trainer.model)
    gc.disable()  # a circle would wait for the collector, with the memory of a GPU
    try:
        del trainer
        assert model() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("precise", [True, False])
def test_a_checkpoint_has_the_precise_statistics_of_bn(tmp_path, precise):
    keys = ["TEST.PRECISE_BN.ENABLED", precise, "TEST.PRECISE_BN.NUM_ITER", 5]
    trained(TinyTrainer, tmp_path, *keys, "SOLVER.MAX_ITER", 2)
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    running = 2 * (1 - 0.9**2)  # two steps with momentum 0.1 from 0
    assert state["norm.running_mean"].item() == pytest.approx(2.0 if precise else running)


def test_the_last_line_says_where_everything_is(tmp_path, caplog):
    with caplog.at_level("INFO", "gn_det"):
        trained(TinyTrainer, tmp_path, "SOLVER.MAX_ITER", 2)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("gn_det")]
    assert said[-1].startswith("Trained for 2 iterations.")
    for name in ("model_final.pth", "metrics.json"):
        assert str(tmp_path / name) in said[-1]
        assert (tmp_path / name).exists()
