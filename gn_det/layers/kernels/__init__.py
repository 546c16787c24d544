"""Triton kernels for NVIDIA GPUs. Triton itself is imported when the first of them runs."""

from .group_norm import group_norm
from .support import turn_off, unsupported, usable, why_not

__all__ = ["group_norm", "turn_off", "unsupported", "usable", "why_not"]
