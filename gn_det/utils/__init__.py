"""Small helpers that know nothing of gn_det's other parts."""

from .atomic_write import SaveError, atomic_write

__all__ = ["SaveError", "atomic_write"]
