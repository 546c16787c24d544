"""The most memory that a work takes, in a process of its own."""

import logging
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

__all__ = ["peak_bytes", "resident_bytes"]


def peak_bytes(build: Callable[..., Callable[[], Any]], *args: Any, runs: int = 2) -> int:
    """Return what ``work = build(*args)`` and some runs of ``work()`` add to a fresh process.

    With model, gradients and optimizer, without the interpreter and the libraries: resident memory
    at its highest, minus that after the imports. Where ``work`` runs on a GPU it is the most that
    PyTorch allocated there.

    Args:
        build: a function that can be imported by its name.
        *args: are pickled.
        runs: the second one has the optimizer's state from the start.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, build, args, runs, torch.get_num_threads()).result()


def _measure(build: Callable, args: tuple, runs: int, threads: int) -> int:
    logging.getLogger("torch").setLevel(logging.ERROR)  # its authors' notes to each other
    torch.set_num_threads(threads)
    before = resident_bytes("VmRSS")
    work = build(*args)
    for _ in range(runs):
        work()
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resident_bytes("VmHWM") - before


def resident_bytes(field: str) -> int:
    """Return this process's resident memory now (VmRSS) or at its highest (VmHWM).

    On Linux ``ru_maxrss`` would not do: a new process starts with that of its parent.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[field].split()[0]) * 1024
