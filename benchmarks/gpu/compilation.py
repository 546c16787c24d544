"""Compile the kernels of all layers, by several processes at once.

Triton compiles a kernel when it first runs, half a second on one core, and keeps it on the disk. A
GroupNorm has up to five kernels, and another set for each number of channels, dtype and layout: one
after the other they would take minutes of the time that is there for measurements.
"""

import os
import time
from collections import Counter
from concurrent.futures import Future, ProcessPoolExecutor, TimeoutError, as_completed
from itertools import product
from multiprocessing import get_context
from typing import NamedTuple

import torch

from benchmarks.layer import layer_shapes
from gn_det.layers import kernels

from .correctness import DTYPES, FUSED, GROUPS, LAYOUTS, SHAPES
from .device import DEVICE
from .session import Section

__all__ = ["Job", "compile_one", "jobs", "measure"]

MEMORY_OF_A_PROCESS = 3 * 2**30  # bytes of the GPU, with its context


class Job(NamedTuple):
    """A GroupNorm to compile; see :func:`benchmarks.gpu.correctness.compare`."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str
    relu: bool
    residual: bool


def jobs(height: int = 800, width: int = 1344) -> list[Job]:
    """Return the norms of the sections that follow, what is needed first first.

    Args:
        height: The height of an image in pixels, a multiple of 32.
        width: The width of an image in pixels, a multiple of 32.
    """
    of_step = layer_shapes(2, height, width, 1024).values()
    compared = [shape for shape in SHAPES if shape[0]]
    cases = [
        *product(of_step, [torch.bfloat16], ["NHWC"], FUSED),
        *product(compared, DTYPES, LAYOUTS, FUSED),
        *product(of_step, [torch.bfloat16], ["NCHW"], FUSED),
        *product(of_step, [torch.float32], LAYOUTS, FUSED),
    ]
    return [Job(shape, dtype, layout, *fused) for shape, dtype, layout, fused in cases]


def measure(section: Section) -> None:
    """Add the seconds of each norm that was compiled, and the errors with their numbers."""
    with section.row("kernels") as row:
        todo = jobs(64, 96)[:1] if section.dry else jobs()
        if why := kernels.why_not(torch.empty(2, GROUPS, 8, 8, device=DEVICE)):
            row["not run"] = why
            return
        row["seconds"], errors = [], Counter[str]()
        free = torch.cuda.mem_get_info()[0] if DEVICE == "cuda" else 0
        processes = max(1, min((os.cpu_count() or 2) - 1, free // MEMORY_OF_A_PROCESS))
        pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
        futures: list[Future[float]] = [pool.submit(compile_one, job) for job in todo]
        try:
            for future in as_completed(futures, timeout=max(0.0, section.left() - 5)):
                if error := future.exception():  # of any kind: the other jobs go on
                    errors[f"{type(error).__name__}: {error}"[:500]] += 1
                else:
                    row["seconds"].append(future.result())
        except TimeoutError:
            row["left"] = sum(not future.done() for future in futures)
        pool.shutdown(wait=False, cancel_futures=True)
        row["processes"], row["errors"] = processes, dict(errors)


def compile_one(job: Job) -> float:
    """Run a norm forward and backward, and return the seconds that it took.

    Raises:
        RuntimeError: A kernel failed in this process, now or before. The message has the reason.
    """
    start = time.perf_counter()
    layout, channels = LAYOUTS[job.layout], job.shape[1]
    x = torch.ones(job.shape, dtype=job.dtype, device=DEVICE).contiguous(memory_format=layout)
    residual = torch.ones_like(x) if job.residual else None
    inputs = [x, *(torch.ones(channels, device=DEVICE) for _ in range(2))]
    for tensor in inputs:
        tensor.requires_grad_()
    y, *_ = kernels.group_norm(x, GROUPS, *inputs[1:], 1e-5, relu=job.relu, residual=residual)
    torch.autograd.grad(y, inputs, torch.ones_like(y))
    if why := kernels.why_not(x):
        raise RuntimeError(why)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
