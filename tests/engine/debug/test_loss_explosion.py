import math
import random

import pytest

from gn_det.config import get_cfg
from gn_det.engine.debug.loss_explosion import LossWatch, learning_rate_advice


def said(losses, start=0):
    watch = LossWatch()
    return [text for i, loss in enumerate(losses, start) if (text := watch.look(i, loss))]


def test_explosion_is_said_once():
    losses = [4.0, 4.2, 3.8, 4.1, 4.0, 6.0, 15.0, 60.0, 200.0, 900.0, 1e5]
    assert said(losses) == [
        "The loss explodes: 60 at iteration 9 is 15 times that of the first iterations (4)."
    ]


def test_explosion_in_the_first_steps():
    (text,) = said([4.0, 300.0, 200.0, 150.0, 120.0, 100.0])
    assert "150 at iteration 4 is 19 times that of the first iterations (8)" in text


@pytest.mark.parametrize(
    "losses",
    [
        [4.0] * 20 + [400.0] + [4.0] * 20,  # one bad batch
        [4.0] * 20 + [400.0, 90.0] + [4.0] * 20,
        [1.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0],  # the first batch was an easy one
        [4.0 * 0.99**i for i in range(100)],
        [0.0] * 10 + [1.0] * 10,  # nothing to compare with
    ],
)
def test_no_false_alarm(losses):
    assert not said(losses)


def test_noise_is_no_explosion():
    rng = random.Random(0)
    for _ in range(300):  # each loss up to 2.2 times as high or low, two standard deviations
        assert not said([4 * math.exp(rng.gauss(0, 0.4)) for _ in range(100)])


def test_later_or_resumed_is_not_watched():
    assert not said([4.0] * 100 + [1e6] * 5)
    assert not said([4.0] * 10 + [1e6] * 5, start=100)


@pytest.mark.parametrize(("iteration", "warmup"), [(0, 0), (100, 0), (5, 1000)])
def test_no_advice(iteration, warmup):
    cfg = get_cfg()
    cfg.SOLVER.WARMUP_ITERS = warmup
    assert learning_rate_advice(cfg, iteration, 0.02) == ""
    assert learning_rate_advice(None, 5, 0.02) == ""


def test_advice():
    cfg = get_cfg()
    cfg.SOLVER.WARMUP_ITERS = 0
    text = learning_rate_advice(cfg, 5, 0.02)
    assert text.startswith("SOLVER.WARMUP_ITERS is 0 and the learning rate 0.02")
