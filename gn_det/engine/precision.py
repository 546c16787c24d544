"""Mixed precision by config: SOLVER.AMP.ENABLED and SOLVER.AMP.DTYPE, on GPU and CPU."""

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path

import torch
from detectron2.config import CfgNode

from gn_det.config import require_gn_config

__all__ = ["autocast", "cpu_has_bfloat16", "gpu_has_bfloat16", "grad_scaler"]

logger = logging.getLogger(__name__)

CPUINFO = Path("/proc/cpuinfo")

# Linux's names of the instructions that multiply bfloat16: of Intel and AMD, Intel, ARM
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def autocast(cfg: CfgNode) -> AbstractContextManager:
    """Return the context in which a model of ``cfg`` runs, in training and in evaluation.

    bfloat16 on a CPU or GPU without instructions for it is slow, and is warned of once.

    Args:
        cfg: A finished config, with ``SOLVER.AMP`` and ``MODEL.DEVICE``.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return nullcontext()
    require_gn_config(cfg)
    dtype = getattr(torch, cfg.SOLVER.AMP.DTYPE)
    device = torch.device(cfg.MODEL.DEVICE).type
    if dtype == torch.bfloat16:
        _warn_of_slow_bfloat16(cfg.MODEL.DEVICE)
    return torch.autocast(device, dtype=dtype)


def _warn_of_slow_bfloat16(name: str) -> None:
    device = torch.device(name).type
    if device == "cpu" and cpu_has_bfloat16() is False:
        _warn_once(
            "This CPU has no bfloat16 instructions (AVX512-BF16, AMX or ARM's): SOLVER.AMP.DTYPE "
            "bfloat16 will be slower than fp32 (SOLVER.AMP.ENABLED False), without AVX512 ten "
            "times and more."
        )
    if device == "cuda" and not gpu_has_bfloat16(name):
        _warn_once(
            f"This GPU ({torch.cuda.get_device_name(name)}) has no bfloat16 instructions, and "
            "emulates them: SOLVER.AMP.DTYPE float16 is faster."
        )


def grad_scaler(cfg: CfgNode) -> "torch.amp.GradScaler":
    """Return a loss scaler, which is disabled unless ``cfg`` trains in float16.

    Args:
        cfg: A finished config, with ``SOLVER.AMP`` and ``MODEL.DEVICE``.
    """
    amp = cfg.SOLVER.AMP
    return torch.amp.GradScaler(
        torch.device(cfg.MODEL.DEVICE).type,
        enabled=amp.ENABLED and amp.DTYPE == "float16",
    )


def cpu_has_bfloat16() -> bool | None:
    """Return whether this machine's CPU has instructions for bfloat16; None: not known.

    Without them PyTorch converts back and forth, or falls back to plain loops. Linux is asked, as
    PyTorch's names for it change from version to version, or are missing.
    """
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.is_file() else []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):  # x86 and ARM
            return not BFLOAT16_FLAGS.isdisjoint(value.split())
    return None


def gpu_has_bfloat16(device: str) -> bool:
    """Return whether a GPU has instructions for bfloat16; True where there is no GPU to ask.

    ``torch.cuda.is_bf16_supported`` counts an emulation, too.

    Args:
        device: The name of the GPU, "cuda" or "cuda:N".
    """
    if not torch.cuda.is_available() or torch.version.hip:
        return True
    return torch.cuda.get_device_capability(device) >= (8, 0)


@lru_cache  # autocast() is entered at every step
def _warn_once(message: str) -> None:
    logger.warning(message)
