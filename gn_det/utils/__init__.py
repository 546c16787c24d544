"""Small helpers that use no other part of gn_det."""

from .atomic_write import SaveError, atomic_write
from .open_regular import identify_content, open_regular
from .resident_memory import resident_bytes
from .text import and_more, closest, did_you_mean, shorten

__all__ = [
    "SaveError",
    "and_more",
    "atomic_write",
    "closest",
    "did_you_mean",
    "identify_content",
    "open_regular",
    "resident_bytes",
    "shorten",
]
