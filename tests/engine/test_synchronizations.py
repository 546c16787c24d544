"""How often a step makes Python wait for a GPU: counted on a CPU, by the operations that read."""

import os
import sys
from collections import Counter
from contextlib import ExitStack

import detectron2
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import gn_det
from gn_det.engine.ema import ModelEMA
from gn_det.engine.grad_accum import GradAccumTrainer, build_grad_accum_trainer

# all operations whose result has a size or a value that Python needs; item(), float() and bool()
# come as _local_scalar_dense
READING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "bincount"}
# those that PyTorch does not dispatch where the tensor is on a CPU already
METHODS = {"tolist", "numpy", "cpu", "__array__"}


def _folder(package):
    return os.path.dirname(package.__file__) + os.sep


PACKAGES = _folder(gn_det), _folder(detectron2)


class _Synchronizations:
    """Counts where a block would wait for a GPU, if all its tensors were there."""

    def __init__(self):
        self.places = Counter()
        self._modes = ExitStack()

    def __enter__(self):
        self._modes.enter_context(_Operations(self.places))
        self._modes.enter_context(_Methods(self.places))
        return self

    def __exit__(self, *error):
        self._modes.close()

    def of(self, package):
        """Return the places whose innermost frame, of gn_det and Detectron2, is of ``package``."""
        return {place: n for place, n in self.places.items() if place.startswith(_folder(package))}


class _Operations(TorchDispatchMode):
    def __init__(self, places):
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in READING or mask:
            self.places[_place()] += 1
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __init__(self, places):
        super().__init__()
        self.places = places

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in METHODS:
            self.places[_place()] += 1
        return func(*args, **(kwargs or {}))


def _place():
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGES):
            return f"{path}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


class Losses(nn.Module):
    """A linear layer with as many losses as asked for."""

    def __init__(self, count):
        super().__init__()
        self.layer, self.count = nn.Linear(2, 2), count

    def forward(self, x):
        y = self.layer(x).square().sum()
        return {f"loss_{number}": y * (number + 1) for number in range(self.count)}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("losses", [1, 20])
def test_a_step_waits_once(losses, micro_batches, scaled):
    model = Losses(losses)
    trainer = GradAccumTrainer(
        model,
        [torch.ones(1, 2)] * 2 * micro_batches,
        torch.optim.SGD(model.parameters(), 0.001, momentum=0.9),
        micro_batch_ids=range(micro_batches),
        scaler=torch.amp.GradScaler("cpu", init_scale=8.0) if scaled else None,
        clip_norm=1.0,
        ema=ModelEMA(model, 0.9),
    )
    with EventStorage(0) as storage:
        for trainer.iter in range(2):
            with _Synchronizations() as seen:
                trainer.run_step()
            assert sum(seen.places.values()) == 1, seen.places
    expected = model.layer(torch.ones(1, 2)).square().sum() * losses * (losses + 1) / 2
    assert storage.latest()["total_loss"][0] > expected > 0  # before the last update


def test_a_detector_waits_at_most_three_times(tiny_cfg, batch):
    """Detectron2 itself waits some 50 times. Our RoIAlign of CPUs is not what a GPU has."""
    cfg = tiny_cfg("SOLVER.CLIP_GLOBAL_NORM", 1.0, "SOLVER.EMA_DECAY", 0.9)
    model = build_model(cfg)
    optimizer = torch.optim.SGD(model.parameters(), 0.001)
    trainer = build_grad_accum_trainer(cfg, model, [batch], optimizer)
    trainer.iter = trainer.seed = 0
    with EventStorage(0), _Synchronizations() as seen:
        trainer.run_step()
    ours = {k: n for k, n in seen.of(gn_det).items() if "/layers/roi_align" not in k}
    assert sum(ours.values()) <= 3, ours
    assert sum(n for place, n in ours.items() if "/engine/" in place) == 1, ours
    assert sum(seen.of(detectron2).values()) > 20  # else nothing is counted
