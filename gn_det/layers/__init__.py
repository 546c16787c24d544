"""Normalization of features and weights. Depends on torch alone: no cfg, no registry."""

from .group_norm import GroupNorm, num_groups_for
from .weight_standardization import standardize_weight

__all__ = ["GroupNorm", "num_groups_for", "standardize_weight"]
