"""Reading other people's weights, safely, and their names as ours."""

from .checkpointer import Checkpointer
from .convert import convert, recognize, save_converted
from .convert_file import convert_file
from .converted import Converted
from .durable import SaveError, write_durably
from .errors import WeightsError
from .matching import Report
from .resumable import checkpoint_iteration, resumable
from .safe_load import load_file
from .trained_as import TrainedAs

__all__ = [
    "Checkpointer",
    "Converted",
    "Report",
    "SaveError",
    "TrainedAs",
    "WeightsError",
    "checkpoint_iteration",
    "convert",
    "convert_file",
    "load_file",
    "recognize",
    "resumable",
    "save_converted",
    "write_durably",
]
