"""Random numbers that are a function of what they are for, not of what was drawn before.

A step or an image seeds Python, numpy and torch from the run's seed and its own number. So a run
that is stopped goes on with the numbers that it would have had, whatever process draws them.

Nor may sums vary: MKL, which does a CPU's matrix products, is asked for the same bits each time,
unless the environment variable MKL_CBWR says otherwise.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.utils import comm

__all__ = ["choose_seed", "kept_rng", "seed_cpu", "seed_everything"]

# Read at MKL's first call. Without it two threads add the products of small images in either order.
os.environ.setdefault("MKL_CBWR", "AUTO")


def choose_seed(seed: int) -> int:
    """Return ``seed``; where it is negative, one that all processes agree on."""
    return seed if seed >= 0 else int(comm.shared_random_seed())


def seed_everything(*numbers: int) -> None:
    """Seed Python, numpy and torch (the GPUs' generators too) from ``numbers``.

    Args:
        *numbers: at least 0, such as (seed of the run, iteration). Others give independent streams.
    """
    torch.manual_seed(seed_cpu(*numbers))


def seed_cpu(*numbers: int) -> int:
    """Seed the same without the GPUs, in a tenth of the time, and return torch's seed."""
    # with their count, since zeros at the end would not count
    words = np.random.SeedSequence((len(numbers), *numbers)).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.default_generator.manual_seed(int(words[2]))
    return int(words[2])


@contextmanager
def kept_rng() -> Iterator[None]:
    """Give back to Python, numpy and torch's CPU the states they had, whatever is drawn inside."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
