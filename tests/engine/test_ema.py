import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.events import EventStorage
from torch import nn

from gn_det.checkpoint import Checkpointer
from gn_det.config import ConfigError, get_cfg
from gn_det.engine.ema import ModelEMA
from gn_det.engine.grad_accum import GradAccumTrainer, build_grad_accum_trainer

# weights of w' = 0.9 w after one, two and three steps from (3, 4), and averages with decay 0.9
WEIGHTS = [[2.7, 3.6], [2.43, 3.24], [2.187, 2.916]]
AVERAGES = [[2.7, 3.6], [2.673, 3.564], [2.6244, 3.4992]]


class Net(nn.Module):
    """Loss 0.5 |w|^2; with a batch norm and a frozen parameter beside it."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.frozen = nn.Parameter(torch.ones(1000), requires_grad=False)
        self.norm = nn.BatchNorm1d(1, affine=False)

    def forward(self, x):
        self.norm(x.view(-1, 1))
        return {"loss": 0.5 * (self.w**2).sum()}


def make(decay=0.9, **kwargs):
    model = Net()
    ema = ModelEMA(model, decay) if decay else None
    optimizer = torch.optim.SGD([model.w], 0.1)
    loader = [torch.tensor([1.0, 3.0])] * 100
    trainer = GradAccumTrainer(model, loader, optimizer, ema=ema, **kwargs)
    trainer.iter = -1
    return trainer


def train(trainer, steps):
    for _ in range(steps):
        trainer.iter += 1
        with EventStorage(trainer.iter):
            trainer.run_step()


def use_ema_weights(trainer):
    with trainer.use_ema_weights():
        return trainer.model.w.tolist()


@pytest.mark.parametrize("gpus", [1, 2])
def test_closed_form(gpus):
    trainer = make(micro_batch_ids=range(gpus))
    assert use_ema_weights(trainer) == [3.0, 4.0]
    for weights, average in zip(WEIGHTS, AVERAGES):
        train(trainer, 1)
        assert trainer.model.w.tolist() == pytest.approx(weights)
        assert use_ema_weights(trainer) == pytest.approx(average)
        assert trainer.model.w.tolist() == pytest.approx(weights)


def test_a_step_that_the_scaler_leaves_out_is_none():
    # 2^126 * 4 and 2^127 * 3.24 are beyond float32; after a step the scale doubles
    trainer = make(scaler=torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=1))
    for average in (None, AVERAGES[0], AVERAGES[1], AVERAGES[1], AVERAGES[2]):
        train(trainer, 1)
        assert use_ema_weights(trainer) == pytest.approx(average or [3.0, 4.0])


def test_inside_itself_and_after_an_error():
    trainer = make()
    train(trainer, 3)
    with trainer.use_ema_weights():
        assert use_ema_weights(trainer) == pytest.approx(AVERAGES[-1])
        assert trainer.model.w.tolist() == pytest.approx(AVERAGES[-1])
    with pytest.raises(RuntimeError), trainer.use_ema_weights():
        trainer.model.load_state_dict({})
    assert trainer.model.w.tolist() == pytest.approx(WEIGHTS[-1])
    train(trainer, 1)
    assert trainer.model.w.tolist() == pytest.approx([0.9 * w for w in WEIGHTS[-1]])


def test_one_copy_of_what_is_trained_and_the_models_statistics():
    trainer = make()
    train(trainer, 3)
    other = trainer.ema.state_dict()["other"]
    assert {name: tensor.numel() for name, tensor in other.items()} == {"w": 2}
    statistics = trainer.model.norm.running_mean.item()
    assert statistics == pytest.approx(2 * (1 - 0.9**3))
    with trainer.use_ema_weights():
        assert trainer.model.state_dict()["norm.running_mean"].item() == statistics


def save(trainer, folder, within=True):
    checkpointer = Checkpointer(trainer.model, str(folder), trainer=trainer)
    if within:
        with trainer.use_ema_weights():
            checkpointer.save("model_final")
    else:
        checkpointer.save("model_final")
    return str(folder / "model_final.pth")


@pytest.mark.parametrize("reader", [Checkpointer, DetectionCheckpointer])
def test_a_checkpoint_is_read_as_the_average(tmp_path, reader):
    trainer = make()
    train(trainer, 3)
    path = save(trainer, tmp_path)
    model = Net()
    reader(model).load(path)
    assert model.w.tolist() == pytest.approx(AVERAGES[-1])
    assert model.norm.running_mean == trainer.model.norm.running_mean


@pytest.mark.parametrize("within", [True, False])
def test_a_run_goes_on_to_the_bit(tmp_path, within):
    whole, first, second = make(), make(), make()
    train(whole, 5)
    train(first, 3)
    path = save(first, tmp_path, within)
    Checkpointer(second.model, str(tmp_path), trainer=second).load(path)
    assert second.model.w.tolist() == first.model.w.tolist()
    assert use_ema_weights(second) == use_ema_weights(first)
    train(second, 2)
    assert second.model.w.tolist() == whole.model.w.tolist()
    assert use_ema_weights(second) == use_ema_weights(whole)


def test_an_average_is_not_left_out_in_the_middle(tmp_path):
    trainer, without = make(), make(decay=0)
    train(trainer, 1)
    path = save(trainer, tmp_path)
    with pytest.raises(ConfigError, match=r"SOLVER\.EMA_DECAY is 0, but the run"):
        Checkpointer(without.model, str(tmp_path), trainer=without).load(path)


def test_an_average_can_begin_in_the_middle(tmp_path):
    without, trainer = make(decay=0), make()
    train(without, 1)
    path = save(without, tmp_path)
    Checkpointer(trainer.model, str(tmp_path), trainer=trainer).load(path)
    assert use_ema_weights(trainer) == pytest.approx(WEIGHTS[0])
    train(trainer, 1)
    assert use_ema_weights(trainer) == pytest.approx(WEIGHTS[1])


def test_by_config():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    model = Net()
    optimizer = torch.optim.SGD([model.w], 0.1)
    assert build_grad_accum_trainer(cfg, model, [], optimizer).ema is None
    cfg.SOLVER.EMA_DECAY = 0.9
    trainer = build_grad_accum_trainer(cfg, model, [torch.ones(2)] * 100, optimizer)
    trainer.iter = -1
    train(trainer, 3)
    assert use_ema_weights(trainer) == pytest.approx(AVERAGES[-1])
