import math
import weakref

import pytest
import torch
from detectron2.data.samplers import TrainingSampler
from detectron2.utils.events import EventStorage
from torch import nn

from gn_det.config import ConfigError, get_cfg
from gn_det.data import TrainStream
from gn_det.data.worker_watch import WorkerDied
from gn_det.engine import GradAccumTrainer, NonFiniteError
from gn_det.engine.ema import ModelEMA
from gn_det.engine.grad_accum import build_grad_accum_trainer


class Quadratic(nn.Module):
    """Loss 0.5 * scale * |w - x|^2, so that every step can be worked out by hand."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.scale = scale

    def forward(self, x):
        return {"loss": 0.5 * self.scale * ((self.w - x) ** 2).sum()}


def step(model, x=0.0, **kwargs):
    trainer = GradAccumTrainer(
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


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_touched():
    class Broken(Quadratic):
        def forward(self, x):
            # the loss is finite, its gradient is not
            return {"loss": (self.w - self.w.detach()).abs().sqrt().sum()}

    model = Broken()
    with pytest.raises(FloatingPointError, match="Iteration 0: the gradient's norm is"):
        step(model)
    assert model.w.tolist() == [3.0, 4.0]


def test_a_scale_that_is_too_large_is_left_to_the_scaler():
    model = Quadratic()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    step(model, scaler=scaler)  # 2^127 * (3, 4) is beyond float32
    assert model.w.tolist() == [3.0, 4.0]
    assert scaler.get_scale() == 2.0**126


def test_a_norm_that_overflows_skips_the_step_too():
    """Each number is finite, so the scaler sees nothing and would step."""

    class Steep(Quadratic):
        def forward(self, x):
            return {"loss": ((self.w - self.w.detach()) * 3e38).sum()}

    model = Steep()
    scaler = torch.amp.GradScaler("cpu", init_scale=1.1)
    trainer, storage = step(model, scaler=scaler, ema=ModelEMA(model, 0.5))
    if hasattr(torch.nn.utils, "get_total_norm"):  # before PyTorch 2.6, clipping by inf gives NaN
        assert model.w.grad.tolist() == pytest.approx([3e38, 3e38])
    assert storage.latest()["grad_norm"][0] == math.inf
    assert model.w.tolist() == [3.0, 4.0]
    assert trainer.ema.state_dict()["other"] == {}


class Recorder(Quadratic):
    """Remembers the random number that each micro-batch met."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(torch.rand(()).item())
        return super().forward(x)


def accumulate(model, batches, **kwargs):
    loader = [torch.tensor(x) for x in batches]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    gpus = range(len(batches))
    trainer = GradAccumTrainer(model, loader, optimizer, micro_batch_ids=gpus, **kwargs)
    trainer.iter, trainer.seed = 5, 11
    with EventStorage(5) as storage:
        trainer.run_step()
    return trainer, storage


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_micro_batches_are_averaged(scale):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale else None
    model = Quadratic()
    _, storage = accumulate(model, [1.0, 2.0, 6.0], scaler=scaler)
    # the gradients are (3, 4) - x; the mean x is 3
    assert model.w.tolist() == pytest.approx([3.0, 3.9])
    losses = [0.5 * ((3 - x) ** 2 + (4 - x) ** 2) for x in (1, 2, 6)]
    assert storage.latest()["total_loss"][0] == pytest.approx(sum(losses) / 3)
    assert storage.latest()["grad_norm"][0] == pytest.approx(1)


def test_the_mean_is_clipped_not_each_part():
    model = Quadratic()
    accumulate(model, [10.0, -10.0], clip_norm=1.0)  # the mean gradient is (3, 4)
    assert model.w.tolist() == pytest.approx([3 - 0.06, 4 - 0.08], abs=1e-5)


def test_random_numbers_follow_from_the_number_of_the_micro_batch():
    whole = Recorder()
    accumulate(whole, [0.0] * 4)
    assert len(set(whole.seen)) == 4
    # another process has the second and the fourth
    part = Recorder()
    loader = [torch.tensor(0.0)] * 2
    optimizer = torch.optim.SGD(part.parameters(), 0.1)
    trainer = GradAccumTrainer(part, loader, optimizer, micro_batch_ids=(1, 3))
    trainer.iter, trainer.seed = 5, 11
    with EventStorage(5):
        trainer.run_step()
    assert part.seen == whole.seen[1::2]
    again = Recorder()
    accumulate(again, [0.0] * 4)
    assert again.seen == whole.seen


def test_one_bad_micro_batch_stops_the_step():
    model = Quadratic()
    with pytest.raises(FloatingPointError, match="NaN"):
        accumulate(model, [0.0, float("nan")])
    assert model.w.tolist() == [3.0, 4.0]


def test_a_loader_of_whole_batches_is_cut():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.IMS_PER_STEP = 4, 2
    seen = []

    class Watched(Quadratic):
        def forward(self, x):
            seen.append(x)
            return super().forward(sum(x))

    model = Watched()
    loader = [[1.0, 2.0, 3.0, 4.0]]
    trainer = build_grad_accum_trainer(cfg, model, loader, torch.optim.SGD(model.parameters(), 0.1))
    trainer.iter = 0
    with EventStorage(0):
        trainer.run_step()
    assert seen == [[1.0, 2.0], [3.0, 4.0]]


def test_a_step_that_fails_is_forgotten_before_it_is_repeated():
    """Its activations and the repetition's would need twice the memory."""

    class Refused(Quadratic):
        made, alive = [], []

        def forward(self, x):
            self.alive.append([made() is not None for made in self.made])
            kept = self.w * 1
            self.made.append(weakref.ref(kept))
            square = kept * kept
            square.register_hook(refuse)
            return {"loss": square.sum()}

    def refuse(gradient):
        raise FloatingPointError("a box is not finite")

    model = Refused()
    with pytest.raises(NonFiniteError, match="until this: a box is not finite"):
        step(model)
    assert model.alive == [[], [False]]


def test_only_a_stream_can_be_entered(caplog):
    trainer, _ = step(Quadratic())
    trainer.seek_data(0)
    assert not caplog.text
    trainer.seek_data(7)
    assert "another order than without the stop: list cannot start" in caplog.text


def test_leaving_is_agreed_on_in_a_step():
    """What is asked for after that waits for the next step: the other processes do not know."""
    model = Quadratic()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trainer = GradAccumTrainer(model, [torch.tensor(0.0)] * 2, optimizer)
    trainer.iter = 0
    with EventStorage(0):
        trainer.run_step()
        trainer.stop_requested = True
        assert not trainer.should_stop
        trainer.run_step()
    assert trainer.should_stop


def test_eval_mode_is_refused():
    model = Quadratic()
    trainer = GradAccumTrainer(model, [torch.tensor(0.0)], torch.optim.SGD(model.parameters(), 0.1))
    model.eval()
    with pytest.raises(RuntimeError, match="eval"):
        trainer.run_step()


def test_state_round_trip():
    trainer, _ = step(Quadratic(), scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
    other = GradAccumTrainer(
        Quadratic(),
        [],
        torch.optim.SGD([nn.Parameter(torch.zeros(2))], 0.5),
        scaler=torch.amp.GradScaler("cpu", init_scale=2.0),
    )
    trainer.seed = 5
    other.load_state_dict(trainer.state_dict())
    assert other.seed == 5
    assert other.scaler.get_scale() == 8.0
    assert other.optimizer.param_groups[0]["lr"] == 0.1
    without = GradAccumTrainer(
        Quadratic(), [], torch.optim.SGD([nn.Parameter(torch.zeros(2))], 0.5)
    )
    without.load_state_dict(trainer.state_dict())


def test_state_of_another_network():
    trainer, _ = step(Quadratic())
    two = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))]
    other = GradAccumTrainer(Quadratic(), [], torch.optim.SGD(two, 0.5))
    with pytest.raises(ConfigError, match="of another network"):
        other.load_state_dict(trainer.state_dict())


def test_built_by_a_config():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE = True, "bfloat16"
    cfg.SOLVER.CLIP_GLOBAL_NORM = 1.0
    seen = []

    class Watched(Quadratic):
        def forward(self, x):
            seen.append((torch.ones(1, 1) @ torch.ones(1, 1)).dtype)
            return super().forward(x)

    model = Watched()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trainer = build_grad_accum_trainer(cfg, model, [torch.tensor(0.0)], optimizer)
    trainer.iter = 0
    with EventStorage(0):
        trainer.run_step()
    assert seen == [torch.bfloat16]
    assert not trainer.scaler.is_enabled()
    assert model.w.tolist() == pytest.approx([3 - 0.06, 4 - 0.08], abs=1e-5)


def test_the_error_of_a_worker_that_dies_in_forward_names_the_image():
    """PyTorch raises it wherever the process is; another error stays what it is."""

    class Dying(Quadratic):
        def forward(self, x):
            raise RuntimeError(self.said)

    stream = TrainStream(
        [1.0],
        torch.tensor,
        lambda seed: TrainingSampler(1, seed=seed),
        images_per_step=1,
        batch_size=1,
    )
    model = Dying()
    trainer = GradAccumTrainer(model, stream, torch.optim.SGD(model.parameters(), 0.1))
    trainer.iter = 0
    model.said = "DataLoader worker (pid 1) is killed by signal: Killed."
    with EventStorage(0), pytest.raises(WorkerDied, match=r"loads images .*Killed.*pid 1"):
        trainer.run_step()
    model.said = "the shapes do not fit"
    with EventStorage(0), pytest.raises(RuntimeError, match="the shapes do not fit"):
        trainer.run_step()
