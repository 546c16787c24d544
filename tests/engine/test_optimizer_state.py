import copy

import pytest
import torch
from torch import nn

from gn_det.config import ConfigError
from gn_det.engine.optimizer_state import (
    check_optimizer_state,
    fitting_state,
    optimizer_class,
    parameter_names,
)


def _trained(*shapes, kind=torch.optim.SGD, **kwargs):
    """Return an optimizer after a step, one group a parameter as Detectron2 has it."""
    parameters = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    optimizer = kind([{"params": [p]} for p in parameters], lr=0.1, **kwargs)
    sum(p.sum() for p in parameters).backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"momentum": 0.9}, {"kind": torch.optim.Adam}],
    ids=["SGD", "SGD with momentum", "Adam"],
)
def test_state_of_the_same_parameters(kwargs):
    check_optimizer_state(_trained((2, 3), (4,), **kwargs).state_dict(), _trained((2, 3), (4,)))


def test_state_before_the_first_step():
    fresh = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
    check_optimizer_state(fresh.state_dict(), fresh)


def test_state_of_another_number_of_parameters():
    with pytest.raises(ConfigError, match=r"trained 2 parameters, this config trains 1\. .*MODEL"):
        check_optimizer_state(_trained((2,), (3,)).state_dict(), _trained((2,)))


@pytest.mark.parametrize("kwargs", [{"momentum": 0.9}, {"kind": torch.optim.Adam}])
def test_state_of_another_shape(kwargs):
    saved = _trained((4,), (2, 3), **kwargs).state_dict()
    with pytest.raises(ConfigError, match=r"shape \(2, 3\), .* one of \(2, 5\)"):
        check_optimizer_state(saved, _trained((4,), (2, 5)))


class Layers(nn.Module):
    """A linear layer and a norm, whose scale and offset Detectron2 decays on their own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.norm = nn.Linear(2, 4), nn.GroupNorm(2, 4)

    def forward(self, x):
        return self.norm(self.fc(x)).square().sum()


def _together(model, kind=torch.optim.SGD, **kwargs):
    return kind(model.parameters(), lr=0.1, **kwargs)


def _apart(model, kind=torch.optim.SGD, **kwargs):
    """Return an optimizer with the norm in front, in a group of its own."""
    groups = [{"params": model.norm.parameters(), "weight_decay": 0.0}]
    groups.append({"params": model.fc.parameters()})
    return kind(groups, lr=0.1, **kwargs)


def _steps(model, optimizer, count):
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.tensor([[1.0, -2.0], [3.0, 0.5]])).backward()
        optimizer.step()


def _saved(model, optimizer):
    return {
        "optimizer": optimizer.state_dict(),
        "optimizer_class": optimizer_class(optimizer),
        "parameters": parameter_names(model, optimizer),
    }


@pytest.mark.parametrize(
    ("before", "after"), [(_together, _apart), (_apart, _together), (_apart, _apart)]
)
@pytest.mark.parametrize(
    "kwargs", [{"momentum": 0.9}, {"kind": torch.optim.AdamW, "weight_decay": 0.0}]
)
def test_parameters_in_other_groups_keep_their_own_averages(before, after, kwargs):
    """Without a decay the groups do not matter: the weights are those of a run without a stop."""
    model = Layers()
    optimizer = before(model, **kwargs)
    _steps(model, optimizer, 3)
    saved, weights = copy.deepcopy((_saved(model, optimizer), model.state_dict()))
    _steps(model, optimizer, 2)

    again = Layers()
    again.load_state_dict(weights)
    resumed = after(again, **kwargs)
    resumed.load_state_dict(fitting_state(saved, again, resumed))
    _steps(again, resumed, 2)
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_the_options_of_other_groups_are_those_of_the_new_ones():
    model = Layers()
    before = _together(model, momentum=0.9, weight_decay=0.1)
    _steps(model, before, 1)
    after = _apart(model, momentum=0.5, weight_decay=0.2)
    after.load_state_dict(fitting_state(_saved(model, before), model, after))
    options = [(g["momentum"], g["weight_decay"]) for g in after.param_groups]
    assert options == [(0.5, 0.0), (0.5, 0.2)]


def test_other_parameters_are_named():
    model = Layers()
    saved = _saved(model, _together(model))
    fewer = torch.optim.SGD(model.fc.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=r"it trained norm\.weight and 1 more, which this config"):
        fitting_state(saved, model, fewer)
    with pytest.raises(ConfigError, match=r"this config trains norm\.weight and 1 more, which it"):
        fitting_state(_saved(model, fewer), model, _together(model))


def test_an_earlier_version_saved_no_names():
    model = Layers()
    saved = {"optimizer": _together(model).state_dict()}
    assert fitting_state(saved, model, _together(model)) is saved["optimizer"]
    with pytest.raises(ConfigError, match="other groups.* Set the SOLVER.WEIGHT_DECAY_NORM"):
        fitting_state(saved, model, _apart(model))


def test_an_optimizer_of_another_class_begins_anew(caplog):
    model = Layers()
    before = _together(model, momentum=0.9)
    _steps(model, before, 2)
    after = _together(model, kind=torch.optim.AdamW)
    state = fitting_state(_saved(model, before), model, after)
    assert state == after.state_dict()
    assert "The optimizer is AdamW, no longer SGD" in caplog.text
    after.load_state_dict(state)
    _steps(model, after, 1)


def test_clipping_is_no_other_class():
    clips = type("SGDWithGradientClip", (torch.optim.SGD,), {})
    assert optimizer_class(_together(Layers(), kind=clips)) == "SGD"


@pytest.mark.parametrize(
    ("kind", "turned_on"),
    [
        (torch.optim.AdamW, {"amsgrad": True}),
        (torch.optim.RMSprop, {"centered": True}),
        (torch.optim.RMSprop, {"centered": True, "momentum": 0.9}),
        (torch.optim.SGD, {"momentum": 0.9}),
    ],
)
def test_averages_that_were_turned_on_begin_as_zeros(kind, turned_on):
    """The next step is that of PyTorch with averages of zeros."""
    model = Layers()
    optimizer = _together(model, kind)
    _steps(model, optimizer, 2)
    again, reference = copy.deepcopy(model), copy.deepcopy(model)
    saved = copy.deepcopy(optimizer.state_dict()["state"])
    resumed = _together(again, kind, **turned_on)
    state = fitting_state(_saved(model, optimizer), again, resumed)
    assert optimizer.state_dict()["state"].keys() == state["state"].keys()
    resumed.load_state_dict({**state, "param_groups": resumed.state_dict()["param_groups"]})
    _steps(again, resumed, 1)

    expected = _together(reference, kind, **turned_on)
    for i, parameter in enumerate(reference.parameters()):
        entries = saved.get(i, {})
        for name in ("max_exp_avg_sq",) if "amsgrad" in turned_on else ("grad_avg",):
            entries |= {name: torch.zeros_like(parameter)} if entries else {}
        if entries and turned_on.get("momentum"):
            entries["momentum_buffer"] = torch.zeros_like(parameter)
        expected.state[parameter].update(entries)
    _steps(reference, expected, 1)
    for theirs, ours in zip(reference.parameters(), again.parameters()):
        assert torch.equal(theirs, ours)
