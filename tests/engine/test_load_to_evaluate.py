import pytest
import torch
from torch import nn

from gn_det.checkpoint import Checkpointer, WeightsError
from gn_det.config import ConfigError
from gn_det.engine import load_to_evaluate


def _model(classes=4):
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Linear(8, classes))


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "whole.pth"
    torch.save({"model": _model().state_dict(), "iteration": 7}, path)
    return str(path)


def test_a_whole_model(whole):
    model = _model()
    assert load_to_evaluate(Checkpointer(model), whole)["iteration"] == 7
    saved = torch.load(whole, weights_only=True)["model"]
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def test_a_part_would_be_random(tmp_path):
    path = tmp_path / "part.pth"
    part = {name: v for name, v in _model().state_dict().items() if name.startswith("0.")}
    torch.save({"model": part}, path)
    with pytest.raises(WeightsError, match=r"part\.pth: .* for 1\.weight and 1 more, .* random"):
        load_to_evaluate(Checkpointer(_model()), str(path))


@pytest.mark.parametrize("resume", [True, False])
def test_nothing_to_load(tmp_path, resume):
    checkpointer = Checkpointer(_model(), str(tmp_path))
    with pytest.raises(ConfigError, match="nothing to evaluate: train.init_checkpoint is empty"):
        load_to_evaluate(checkpointer, "", resume=resume, key="train.init_checkpoint")


def test_the_run_of_the_folder(tmp_path, whole):
    model = _model()
    Checkpointer(model, str(tmp_path)).save("model_0000009", iteration=9)
    again = Checkpointer(_model(), str(tmp_path))
    assert load_to_evaluate(again, "", resume=True)["iteration"] == 9
    assert torch.equal(again.model[0].weight, model[0].weight)
    assert load_to_evaluate(again, whole)["iteration"] == 7
