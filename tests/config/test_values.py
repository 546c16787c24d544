import pytest

import gn_det
from gn_det.config.values import pixel_problems, precision_problems, solver_problems


def _only(key, value):
    """Return the one problem's message."""
    cfg = gn_det.get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list([key, value])
    (problem,) = [*pixel_problems(cfg), *precision_problems(cfg), *solver_problems(cfg)]
    assert problem.fatal
    return problem.message


def test_unknown_ways_to_save():
    message = _only("SOLVER.ON_SAVE_ERROR", "retry")
    assert "SOLVER.ON_SAVE_ERROR is 'retry'; known are stop, continue." in message
    message = _only("SOLVER.KEEP_CHECKPOINTS", -1)
    assert "SOLVER.KEEP_CHECKPOINTS is -1" in message


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_that_is_none(decay):
    message = _only("SOLVER.EMA_DECAY", decay)
    assert f"SOLVER.EMA_DECAY is {decay}" in message


@pytest.mark.parametrize("norm", [-1.0, float("nan")])
def test_a_clip_that_would_turn_the_gradient_round(norm):
    message = _only("SOLVER.CLIP_GLOBAL_NORM", norm)
    assert f"SOLVER.CLIP_GLOBAL_NORM is {norm}" in message


def test_defaults_are_fine():
    cfg = gn_det.get_cfg()
    assert [*pixel_problems(cfg), *precision_problems(cfg), *solver_problems(cfg)] == []


def test_channels_and_precision():
    assert "MODEL.PIXEL_STD [1.0]: each takes" in _only("MODEL.PIXEL_STD", [1.0])
    assert "Set SOLVER.AMP.DTYPE bfloat16" in _only("SOLVER.AMP.ENABLED", True)
    assert "known are float16 and bfloat16" in _only("SOLVER.AMP.DTYPE", "half")


def test_checkpoint_period():
    assert "SOLVER.CHECKPOINT_PERIOD is 0" in _only("SOLVER.CHECKPOINT_PERIOD", 0)
