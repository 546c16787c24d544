"""Advice for a run that is out of memory: what makes its step smaller, and by how much.

The estimate works on tensors without memory, so that it can be made even then.
"""

import os
import shlex
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from tabulate import tabulate

from gn_det.engine.memory_estimate import CONTEXT, estimate
from gn_det.modeling.activation_checkpointing import MEMORY_MODES

__all__ = ["memory_advice"]

# What errors of memory say that have no class of their own, in small letters: those of PyTorch's
# allocators, CUDA, cuBLAS, cuDNN, NCCL and C++.
_WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "status_alloc_failed",
    "allocation_failed",
    "failed to cuda calloc",
    "bad_alloc",
)
# What libraries say where their own memory was refused, and for other reasons too. PyTorch tries
# cuDNN's engines one after the other, and passes over those whose workspace it cannot get.
_PERHAPS = (
    "unable to find an engine to execute this computation",
    "cudnn_status_internal_error",
    "cudnn_status_not_initialized",
    "cublas_status_not_initialized",
)


@contextmanager
def memory_advice(
    cfg: CfgNode | None, iteration: int, batch: Any, release: Callable[[], None]
) -> Iterator[None]:
    """Add advice to an error of memory that is raised inside; the error's class stays.

    Args:
        cfg: A finished config. None adds nothing.
        iteration: The number of the iteration that runs inside.
        batch: The micro-batch that is trained on inside.
        release: A function that frees memory which nobody needs any more.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        sure, perhaps = _is_of_memory(error), _says(error, _PERHAPS)
        if cfg is None or not (sure or perhaps):
            raise
        doubt = "" if sure else _doubt()  # before memory is freed
        release()
        traceback.clear_frames(error.__traceback__)  # they hold the activations
        error.args = (f"{error}\n{_advice(cfg, iteration, batch, doubt)}",)
        raise


def _is_of_memory(error: Exception) -> bool:
    kinds = (MemoryError, torch.cuda.OutOfMemoryError)
    return isinstance(error, kinds) or _says(error, _WORDS)


def _says(error: Exception, phrases: tuple[str, ...]) -> bool:
    return any(words in str(error).lower() for words in phrases)


def _doubt() -> str:
    """Return what else an error of a library may mean, and how much memory was free at it."""
    try:
        free, size = (n >> 20 for n in torch.cuda.mem_get_info())
        reserved, used = torch.cuda.memory_reserved(), torch.cuda.memory_allocated()
        idle = (reserved - used) >> 20
        figures = f"{free} of {size} MiB were free, and {idle} idle in PyTorch's allocator. "
    except Exception:  # noqa: BLE001 without a GPU, or after an error of CUDA that ends all calls
        figures = "How much memory was free cannot be asked any more. "
    return (
        f"Libraries say this where they get no memory, but not only there. {figures}If that was "
        "plenty, memory is not the cause: then the library has no code for this layer, dtype or "
        "GPU, or is not the one that PyTorch was built with (LD_LIBRARY_PATH)."
    )


def _advice(cfg: CfgNode, iteration: int, batch: Any, doubt: str) -> str:
    what = "perhaps out of memory" if doubt else "out of memory"
    try:
        images, height, width = _size(batch)
    except Exception:  # noqa: BLE001 a user's own mapper may make other inputs
        lines = [f"Iteration {iteration}: {what}.", doubt, "docs/performance.md: what takes less."]
        return " ".join(line for line in lines if line)
    lines = [
        f"Iteration {iteration}: {what} with {images} image{'s' * (images != 1)} of "
        f"{height}x{width} in a forward pass."
    ]
    if doubt:
        lines.append(doubt)
    budget = _budget(cfg)
    try:
        lines += _estimates(cfg, images, height, width, budget)
    except Exception as error:  # noqa: BLE001 the error that advice is added to must not be lost
        lines += [
            f"What would fit cannot be estimated here ({error})",
            "Measured for R50-FPN (docs/performance.md), saved for backward as a share of standard "
            "in fp32: MODEL.GN.MEMORY lean 0.5, minimal 0.2; SOLVER.AMP.ENABLED True about half of "
            "each. SOLVER.IMS_PER_STEP 1 has one image in memory; the learning rate stays.",
        ]
    memory = f"{budget / 2**30:.1f}GiB" if budget else "8GiB"
    config = shlex.quote(os.path.join(cfg.OUTPUT_DIR, "config.yaml"))
    lines.append(
        f"To estimate more: gn-det estimate --config {config} --images {images} --size "
        f"{height}x{width} --budget {memory}"
    )
    return "\n".join(lines)


def _estimates(cfg: CfgNode, images: int, height: int, width: int, budget: int) -> list[str]:
    rows, fitting = [], []
    for words, changed, of_images in _ways(cfg, images):
        total = estimate(changed, of_images, height, width, comm.get_world_size()).total
        rows.append([words or "as it is", f"{total / 2**20:.0f}"])
        if total + CONTEXT <= budget:
            fitting.append(words)
    table = tabulate(rows, ["what would help", "MiB by estimate"], disable_numparse=True)
    lines = [table]
    if budget:
        lines.append(f"The GPU has {budget >> 20} MiB, some for its context. {_fits(fitting)}")
    return lines


def _fits(fitting: list[str]) -> str:
    """Return a sentence about the ways that fit; "" is one without a change."""
    if not fitting:
        return "None of these fits. Smaller images take less."
    found = [f"{words} fits." for words in fitting if words][:1]
    if "" in fitting:
        found.append(
            "By the estimate it fits as it is: nvidia-smi shows whether others use the GPU."
        )
    return " ".join(found)


def _ways(cfg: CfgNode, images: int) -> Iterator[tuple[str, CfgNode, int]]:
    """Yield (keys to change, the config with them, its images); each takes less than the last."""
    cfg = cfg.clone()
    cfg.defrost()
    yield "", cfg, images
    words: list[str] = []
    for mode in MEMORY_MODES[MEMORY_MODES.index(cfg.MODEL.GN.MEMORY) + 1 :]:
        cfg.MODEL.GN.MEMORY = mode
        words = [f"MODEL.GN.MEMORY {mode}"]
        yield words[0], cfg, images
    if not cfg.SOLVER.AMP.ENABLED:
        cfg.SOLVER.AMP.ENABLED = True
        words.append("SOLVER.AMP.ENABLED True")
        if cfg.MODEL.DEVICE == "cpu" and cfg.SOLVER.AMP.DTYPE != "bfloat16":
            words.append("SOLVER.AMP.DTYPE bfloat16")
        yield " ".join(words), cfg, images
    if images > 1:
        yield " ".join([*words, "SOLVER.IMS_PER_STEP 1"]), cfg, 1


def _size(batch: Any) -> tuple[int, int, int]:
    """Return the number of images in a micro-batch, and their largest height and width."""
    images = batch["image"] if isinstance(batch, dict) else [item["image"] for item in batch]
    height, width = (max(image.shape[axis] for image in images) for axis in (-2, -1))
    return len(images), height, width


def _budget(cfg: CfgNode) -> int:
    """Return the bytes of the GPU; 0 for a CPU, whose memory is shared with all else."""
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        return 0
    return torch.cuda.mem_get_info()[1]
