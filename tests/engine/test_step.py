import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from gn_det.engine import StepTrainer


class Quadratic(nn.Module):
    """Loss 0.5 * scale * |w - x|^2, so that every step can be worked out by hand."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.scale = scale

    def forward(self, x):
        return {"loss": 0.5 * self.scale * ((self.w - x) ** 2).sum()}


def step(model, x=0.0, **kwargs):
    trainer = StepTrainer(
        model, [torch.tensor(x)] * 2, torch.optim.SGD(model.parameters(), 0.1), **kwargs
    )
    trainer.iter = 0
    with EventStorage(0) as storage:
        trainer.run_step()
    return trainer, storage


def test_plain_step():
    model = Quadratic()
    _, storage = step(model)
    assert model.w.tolist() == pytest.approx([2.7, 3.6])
    assert storage.latest()["total_loss"][0] == pytest.approx(12.5)


def test_global_norm_is_clipped_and_keeps_its_direction():
    model = Quadratic()
    _, storage = step(model, clip_norm=1.0)  # the gradient is (3, 4), its norm 5
    assert model.w.tolist() == pytest.approx([3 - 0.06, 4 - 0.08], abs=1e-5)
    assert storage.latest()["grad_norm"][0] == pytest.approx(5)


def test_small_gradient_is_not_clipped():
    model = Quadratic()
    step(model, clip_norm=10.0)
    assert model.w.tolist() == pytest.approx([2.7, 3.6])


def test_scaled_loss_is_unscaled_before_it_is_clipped():
    model = Quadratic()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    step(model, clip_norm=1.0, scaler=scaler)
    assert model.w.tolist() == pytest.approx([3 - 0.06, 4 - 0.08], abs=1e-5)


def test_autocast_is_used():
    class Linear(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            self.dtype = y.dtype
            return {"loss": y.float().sum()}

    model = Linear(2, 2)
    step(model, x=[1.0, 2.0], autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    assert model.dtype == torch.bfloat16
    assert model.weight.grad.dtype == torch.float32


def test_nan_stops_before_the_weights_are_touched():
    model = Quadratic(scale=float("nan"))
    with pytest.raises(FloatingPointError, match="NaN"):
        step(model)
    assert model.w.tolist() == [3.0, 4.0]


def test_eval_mode_is_refused():
    model = Quadratic()
    trainer = StepTrainer(model, [torch.tensor(0.0)], torch.optim.SGD(model.parameters(), 0.1))
    model.eval()
    with pytest.raises(RuntimeError, match="eval"):
        trainer.run_step()


def test_state_round_trip():
    trainer, _ = step(Quadratic(), scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
    other = StepTrainer(
        Quadratic(),
        [],
        torch.optim.SGD([nn.Parameter(torch.zeros(2))], 0.5),
        scaler=torch.amp.GradScaler("cpu", init_scale=2.0),
    )
    other.load_state_dict(trainer.state_dict())
    assert other.scaler.get_scale() == 8.0
    assert other.optimizer.param_groups[0]["lr"] == 0.1
    without = StepTrainer(Quadratic(), [], torch.optim.SGD([nn.Parameter(torch.zeros(2))], 0.5))
    without.load_state_dict(trainer.state_dict())
