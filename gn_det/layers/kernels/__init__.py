"""Triton kernels for NVIDIA GPUs. Without Triton nothing here is imported but this file."""

from .support import turn_off, usable, why_not

__all__ = ["turn_off", "usable", "why_not"]
