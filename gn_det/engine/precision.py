"""Mixed precision by config: SOLVER.AMP.ENABLED and SOLVER.AMP.DTYPE, on GPU and CPU."""

from contextlib import AbstractContextManager, nullcontext

import torch
from detectron2.config import CfgNode

__all__ = ["autocast", "grad_scaler"]


def autocast(cfg: CfgNode) -> AbstractContextManager:
    """Return the context in which a model of ``cfg`` runs, in training and in evaluation."""
    if not cfg.SOLVER.AMP.ENABLED:
        return nullcontext()
    dtype = getattr(torch, cfg.SOLVER.AMP.DTYPE)
    return torch.autocast(torch.device(cfg.MODEL.DEVICE).type, dtype=dtype)


def grad_scaler(cfg: CfgNode) -> "torch.amp.GradScaler":
    """Return the loss scaler of ``cfg``: float16 alone needs one, others get one that is off."""
    amp = cfg.SOLVER.AMP
    return torch.amp.GradScaler(
        torch.device(cfg.MODEL.DEVICE).type,
        enabled=amp.ENABLED and amp.DTYPE == "float16",
    )
