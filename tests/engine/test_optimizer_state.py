import pytest
import torch
from torch import nn

from gn_det.config import ConfigError
from gn_det.engine.optimizer_state import check_optimizer_state


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
def test_the_same_parameters(kwargs):
    check_optimizer_state(_trained((2, 3), (4,), **kwargs).state_dict(), _trained((2, 3), (4,)))


def test_before_the_first_step():
    fresh = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
    check_optimizer_state(fresh.state_dict(), fresh)


def test_another_number():
    with pytest.raises(ConfigError, match=r"trained 2 parameters, this config trains 1\. .*MODEL"):
        check_optimizer_state(_trained((2,), (3,)).state_dict(), _trained((2,)))


@pytest.mark.parametrize("kwargs", [{"momentum": 0.9}, {"kind": torch.optim.Adam}])
def test_another_shape(kwargs):
    saved = _trained((4,), (2, 3), **kwargs).state_dict()
    with pytest.raises(ConfigError, match=r"one of \(2, 3\) where now one is of \(2, 5\)"):
        check_optimizer_state(saved, _trained((4,), (2, 5)))
