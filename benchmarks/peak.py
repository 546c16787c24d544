"""The peak memory of a function that runs in its own process."""

import logging
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from gn_det.utils import resident_bytes

__all__ = ["peak_bytes"]


def peak_bytes(build: Callable[..., Callable[[], Any]], *args: Any, runs: int = 2) -> int:
    """Return the peak memory that ``work = build(*args)`` and runs of ``work()`` need, in bytes.

    It is measured in a new process: the peak of resident memory, minus the memory after the
    imports. It includes model, gradients and optimizer, but neither interpreter nor libraries. If
    ``work`` runs on a GPU, it is the peak of PyTorch's allocations there, once it is built.

    Args:
        build: A function that can be imported by its name.
        *args: The arguments of ``build``, which are pickled.
        runs: The number of runs. From the second one on, the optimizer has its state.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, build, args, runs, torch.get_num_threads()).result()


def _measure(build: Callable, args: tuple, runs: int, threads: int) -> int:
    logging.getLogger("torch").setLevel(logging.ERROR)  # deprecation warnings
    torch.set_num_threads(threads)
    before = resident_bytes("VmRSS")
    work = build(*args)
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()  # what building alone needs does not count
    for _ in range(runs):
        work()
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resident_bytes("VmHWM") - before
