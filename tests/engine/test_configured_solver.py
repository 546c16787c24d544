import math

import pytest
import torch
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from torch.optim import lr_scheduler

from gn_det.engine.configured_solver import ConfiguredSolver


def parameters():
    return [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(1))]


def optimizer_of(lr, kind=torch.optim.SGD, **kwargs):
    """Return an optimizer of two groups, the second with a tenth of the learning rate."""
    first, second = parameters()
    groups = [{"params": [first]}, {"params": [second], "lr": lr / 10, "weight_decay": 0.0}]
    return kind(groups, lr=lr, **kwargs)


def multistep(optimizer, length, steps=(6,), warmup=4):
    values = [0.1**k for k in range(len(steps) + 1)]
    scheduler = MultiStepParamScheduler(values, milestones=list(steps), num_updates=length)
    scheduler = WarmupParamScheduler(scheduler, 0.01, warmup / length)
    return LRMultiplier(optimizer, scheduler, length)


SCHEDULES = {
    "Detectron2's": lambda optimizer: multistep(optimizer, 10),
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, 2, gamma=0.5),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 10, eta_min=1e-3),
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(
        optimizer, optimizer.param_groups[0]["lr"], total_steps=11
    ),
}


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


def run(optimizer, scheduler, count):
    """Return the learning rates of each iteration."""
    found = []
    for _ in range(count):
        found.append(rates(optimizer))
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("iteration", [1, 3, 5, 7])
def test_the_rates_are_those_of_a_run_with_this_config_from_the_start(schedule, iteration):
    fresh = optimizer_of(0.2, momentum=0.5)
    whole = run(fresh, SCHEDULES[schedule](fresh), 10)

    old = optimizer_of(0.7, momentum=0.9, weight_decay=0.1)
    old_schedule = multistep(old, 20, steps=(2,), warmup=1)
    if schedule != "Detectron2's":
        old_schedule = SCHEDULES[schedule](old)
    run(old, old_schedule, iteration)

    optimizer = optimizer_of(0.2, momentum=0.5)
    scheduler = SCHEDULES[schedule](optimizer)
    solver = ConfiguredSolver(optimizer, scheduler)
    optimizer.load_state_dict(old.state_dict())
    scheduler.load_state_dict(old_schedule.state_dict())
    assert rates(optimizer) != whole[iteration]
    solver.restore(iteration)
    assert run(optimizer, scheduler, 10 - iteration) == whole[iteration:]
    if schedule != "one cycle":  # which has a momentum of its own
        assert [group["momentum"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.0]


def test_without_a_change_nothing_changes_by_a_bit():
    optimizer = optimizer_of(0.0123)
    scheduler = multistep(optimizer, 97, steps=(31, 71), warmup=13)
    solver = ConfiguredSolver(optimizer, scheduler)
    for iteration in range(1, 97):
        optimizer.step()
        scheduler.step()
        before = rates(optimizer)
        solver.restore(iteration)
        assert rates(optimizer) == before
        assert scheduler.last_epoch == iteration


def test_a_multiplier_of_a_python_config():
    """Detectron2's hook makes its schedule from the learning rate of the optimizer."""
    old = optimizer_of(0.7)
    LRMultiplier(old, CosineParamScheduler(1, 0), 10)
    optimizer, multiplier = optimizer_of(0.2), CosineParamScheduler(1, 0)
    solver = ConfiguredSolver(optimizer, multiplier)
    optimizer.load_state_dict(old.state_dict())
    solver.restore(4)
    LRMultiplier(optimizer, multiplier, 10, last_iter=3)
    expected = 0.2 * 0.5 * (1 + math.cos(math.pi * 0.4))
    assert rates(optimizer) == pytest.approx([expected, expected / 10])


def test_options_of_adam():
    old = optimizer_of(0.7, torch.optim.AdamW, betas=(0.5, 0.6))
    optimizer = optimizer_of(0.2, torch.optim.AdamW, betas=(0.8, 0.9), eps=1e-6)
    solver = ConfiguredSolver(optimizer, CosineParamScheduler(1, 0))
    optimizer.load_state_dict(old.state_dict())
    solver.restore(1)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert optimizer.param_groups[1]["eps"] == 1e-6
