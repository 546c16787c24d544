"""Advice for a run that is out of memory: what makes its step smaller, and by how much.

The estimate works on tensors without memory, so that it can be made even then.
"""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from tabulate import tabulate

from gn_det.engine.memory_estimate import estimate
from gn_det.modeling.activation_checkpointing import MEMORY_MODES

__all__ = ["memory_advice"]

# in the RuntimeErrors of allocators, which have no class of their own
_WORDS = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED", "bad_alloc")
# the bytes of a GPU that its context and libraries take
CONTEXT = 1 << 30


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
        if cfg is None or not _is_of_memory(error):
            raise
        release()
        traceback.clear_frames(error.__traceback__)  # they hold the activations
        error.args = (f"{error}\n{_advice(cfg, iteration, batch)}",)
        raise


def _is_of_memory(error: Exception) -> bool:
    kinds = (MemoryError, torch.cuda.OutOfMemoryError)
    return isinstance(error, kinds) or any(words in str(error) for words in _WORDS)


def _advice(cfg: CfgNode, iteration: int, batch: Any) -> str:
    try:
        images, height, width = _size(batch)
    except Exception:  # noqa: BLE001 a user's own mapper may make other inputs
        return f"Iteration {iteration}: out of memory. See docs/performance.md for what takes less."
    lines = [
        f"Iteration {iteration}: out of memory with {images} image{'s' * (images != 1)} of "
        f"{height}x{width} in a forward pass."
    ]
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
    config = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    lines.append(
        f"To estimate more: gn-det estimate --config {config} --images {images} --size "
        f"{height}x{width} --budget {memory}"
    )
    return "\n".join(lines)


def _estimates(cfg: CfgNode, images: int, height: int, width: int, budget: int) -> list[str]:
    rows, fitting = [], ""
    for words, changed, of_images in _ways(cfg, images):
        total = estimate(changed, of_images, height, width).total
        rows.append([words or "as it is", f"{total / 2**20:.0f}"])
        if budget and words and not fitting and total + CONTEXT <= budget:
            fitting = words
    table = tabulate(rows, ["what would help", "MiB by estimate"], disable_numparse=True)
    lines = [table]
    if budget:
        fits = f"{fitting} fits" if fitting else "none of these fits, nor may smaller images do"
        lines.append(f"The GPU has {budget / 2**20:.0f} MiB, some for its context: {fits}.")
    return lines


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
