"""Normalization layers. They depend on torch alone: no cfg, no registry."""

from .group_norm import GroupNorm, num_groups_for

__all__ = ["GroupNorm", "num_groups_for"]
