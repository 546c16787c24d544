"""A run that gives the same bits each time (``DETERMINISTIC``)."""

import os

import torch

__all__ = ["require_determinism"]


def require_determinism() -> None:
    """Let PyTorch take only algorithms whose results are the same bits each time.

    It holds for this process and those that it starts, and has to be called before the first matrix
    product on a GPU. An operation that has no such algorithm raises a RuntimeError, which names it.
    """
    # cuBLAS reads it once; without it, PyTorch refuses matrix products on a GPU
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # the fastest algorithm of cuDNN is another one from run to run
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    # what is allocated is written in full: PyTorch need not fill it before
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
