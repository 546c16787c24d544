"""Reading other people's weights, safely, and their names as ours."""

from .checkpointer import Checkpointer
from .convert import convert, recognize, save_converted
from .convert_file import convert_file
from .converted import Converted
from .errors import WeightsError
from .matching import Report
from .safe_load import load_file

__all__ = [
    "Checkpointer",
    "Converted",
    "Report",
    "WeightsError",
    "convert",
    "convert_file",
    "load_file",
    "recognize",
    "save_converted",
]
