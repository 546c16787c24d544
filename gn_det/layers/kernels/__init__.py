"""Triton kernels for NVIDIA GPUs. Triton itself is imported when the first of them runs."""

from .group_norm import group_norm
from .launch import KernelError
from .support import turn_off, usable, why_not

__all__ = ["KernelError", "group_norm", "turn_off", "usable", "why_not"]
