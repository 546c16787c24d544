"""Group Normalization, Weight Standardization and RoIAlign.

This package depends on PyTorch alone: it knows no config and no registry.
"""

from .group_norm import GroupNorm, num_groups_for
from .roi_align import pyramid_roi_align
from .weight_standardization import standardize_weight

__all__ = ["GroupNorm", "num_groups_for", "pyramid_roi_align", "standardize_weight"]
