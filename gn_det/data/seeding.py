"""Random numbers that depend on what they are for, not on what was drawn before.

Each step and each image seeds Python, numpy and torch from the run's seed and its own number. So a
resumed run has the same random numbers as one that was never stopped, in any process.

Sums must not vary either. MKL, which computes matrix products on CPUs, is asked for the same bits
each time, unless the environment variable MKL_CBWR is set.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.utils import comm

__all__ = ["choose_seed", "kept_rng", "seed_cpu", "seed_everything"]

# MKL reads it at its first call. Without it, two threads may add products in either order.
os.environ.setdefault("MKL_CBWR", "AUTO")


def choose_seed(seed: int) -> int:
    """Return the seed of a run, the same in all processes.

    Args:
        seed: The seed of the config. A negative one stands for a random seed.
    """
    return seed if seed >= 0 else int(comm.shared_random_seed())


def seed_everything(*numbers: int) -> None:
    """Seed Python, numpy and torch (the GPUs' generators too) from ``numbers``.

    Args:
        *numbers: The whole numbers, at least 0, such as (seed of the run, iteration). Different
            ones give independent random numbers.
    """
    torch.manual_seed(seed_cpu(*numbers))


def seed_cpu(*numbers: int) -> int:
    """Seed the same without the GPUs, in a tenth of the time.

    Args:
        *numbers: The whole numbers, at least 0.

    Returns:
        The seed of torch.
    """
    # with the number of numbers: SeedSequence ignores zeros at the end
    words = np.random.SeedSequence((len(numbers), *numbers)).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.default_generator.manual_seed(int(words[2]))
    return int(words[2])


@contextmanager
def kept_rng() -> Iterator[None]:
    """Restore the random states of Python, numpy and torch's CPU at the end of the block."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
