from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from gn_det.engine.debug.locate_nonfinite import Step, count_nonfinite, locate_nonfinite


class Scale(nn.Module):
    """Multiplies; its own gradient may be something else than what it should be."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x * self.weight * self.factor


class Root(nn.Module):
    """Its gradient at 0 is infinite."""

    def forward(self, x):
        return (x - x.detach()).abs().sqrt() + x


class Chain(nn.Module):
    """Four parts in a row, with an in-place operation as in Detectron2's blocks."""

    def __init__(self, **parts):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        for name in "abc":
            setattr(self, name, parts.get(name) or Scale())
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, batch):
        self.seen += 1
        x = F.relu_(self.a(batch["x"]))
        return {"loss": self.c(self.b(x)).mean(), "random": self.drop(torch.ones(64)).sum()}


class Remade(Chain):
    """Runs its middle again in backward, as MODEL.GN.MEMORY minimal does."""

    def forward(self, batch):
        x = F.relu_(self.a(batch["x"]))
        return {"loss": self.c(checkpoint(self.b, x, use_reentrant=False)).mean()}


def find(model, *values, seed=3, micro_batch_ids=None, scale=1.0, autocast=nullcontext):
    batches = [{"x": torch.tensor(value)} for value in values or ([1.0, 2.0],)]
    step = Step(batches, micro_batch_ids or [*range(len(batches))], 5, seed, scale)
    return locate_nonfinite(model.train(), step, autocast)


@pytest.mark.parametrize("kind", [Chain, Remade])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_first_output(kind, bad):
    report = find(kind(b=Scale(bad)))
    assert report.location.startswith(
        "b (Scale) is the first module whose output is not finite: 2 of 2"
    )
    assert report.location.endswith("Its input was finite.")
    assert report.micro_batch == 0


def test_what_comes_between_modules():
    class Between(Chain):
        def forward(self, batch):
            return {"loss": self.b(self.a(batch["x"]) / 0.0).mean()}

    location = find(Between()).location
    assert location.startswith("b (Scale)")
    assert location.endswith(
        "Its input was not finite already: look at what the model (Between) does before it."
    )


def test_a_loss_of_the_whole():
    class Loss(Chain):
        def forward(self, batch):
            return {"fine": self.a(batch["x"]).mean(), "broken": self.b(batch["x"]).mean() / 0.0}

    report = find(Loss())
    assert "the model (Loss) is the first module whose output is not finite (broken): 1 of 1" in (
        report.location
    )
    assert report.losses == [{"fine": 1.5, "broken": float("inf")}]


@pytest.mark.parametrize("kind", [Chain, Remade])
def test_first_gradient(kind):
    location = find(kind(b=Root())).location
    assert location.startswith(
        "a (Scale) is the first module, in backward, whose output's gradient is not finite: 2 of 2"
    )
    assert location.endswith("The last gradient that was finite is that of the output of b (Root).")


def test_gradient_of_a_parameter():
    class Leaf(Chain):
        def forward(self, batch):
            w = self.b.weight
            return {"loss": self.a(batch["x"]).mean() + (w - w.detach()).abs().sqrt()}

    assert "the gradient of a parameter is not: b.weight." in find(Leaf()).location


def test_a_norm_that_overflows():
    class Steep(Chain):
        def forward(self, batch):
            return {"loss": self.a(batch["x"]).mean() * 1e-10 + (self.w * 1e30).sum()}

    model = Steep()
    model.w = nn.Parameter(torch.zeros(2))
    report = find(model)
    assert "that of w is so large that its norm is not" in report.location
    assert report.micro_batch is None


def test_error_after_nan():
    class Strict(Chain):
        def forward(self, batch):
            x = self.b(batch["x"])
            if not torch.isfinite(x).all():
                raise AssertionError("boxes")
            return super().forward(batch)

    assert find(Strict(b=Scale(float("nan")))).location.startswith("b (Scale)")


def test_error_of_its_own():
    class Diverged(Chain):
        def forward(self, batch):
            raise FloatingPointError("has diverged")

    assert find(Diverged()).location.endswith("were finite until this: has diverged")

    class Wrong(Chain):
        def forward(self, batch):
            raise KeyError("instances")

    with pytest.raises(KeyError):
        find(Wrong())


def test_second_micro_batch():
    report = find(Chain(), [1.0], [float("nan")], [1.0])
    assert report.micro_batch == 1
    assert len(report.losses) == 2
    assert "a (Scale)" in report.location
    assert "not finite already" in report.location


def test_all_is_finite_and_stays_as_it_was():
    model = Chain()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = find(model, [1.0, 2.0], [4.0])
    assert (report.location, report.micro_batch) == ("", None)
    assert [losses["loss"] for losses in report.losses] == [1.5, 4.0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_random_numbers_follow_from_the_number_of_the_micro_batch():
    one, two = (
        loss["random"] for loss in find(Chain(), [1.0], [1.0], micro_batch_ids=[2, 5]).losses
    )
    assert one != two
    assert find(Chain(), [1.0], micro_batch_ids=[5]).losses[0]["random"] == two


def test_scale_counts():
    # the gradient, 1000, is finite; 2^127 times that is not
    steep = Scale(1e3)
    assert not find(Chain(b=steep), [1.0]).location
    assert "not finite" in find(Chain(b=steep), [1.0], scale=2.0**127).location


def test_bfloat16():
    linear = nn.Linear(2, 2)
    nn.init.constant_(linear.weight, 3e38)
    autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    assert find(Chain(b=linear), autocast=autocast).location.startswith("b (Linear)")


def test_whole_numbers_are_finite():
    assert count_nonfinite(torch.tensor([1, 2])) == 0
    assert count_nonfinite(torch.tensor([1.0, float("inf"), float("nan")])) == 2
