"""Reading other people's weights, safely, and their names as ours."""

from .checkpointer import Checkpointer
from .convert import convert, recognize, save_converted
from .convert_file import convert_file
from .converted import Converted
from .errors import WeightsError
from .matching import Report
from .pretrain_metadata import PretrainMetadata
from .resumable import checkpoint_iteration, resumable
from .safe_load import load_file

__all__ = [
    "Checkpointer",
    "Converted",
    "PretrainMetadata",
    "Report",
    "WeightsError",
    "checkpoint_iteration",
    "convert",
    "convert_file",
    "load_file",
    "recognize",
    "resumable",
    "save_converted",
]
