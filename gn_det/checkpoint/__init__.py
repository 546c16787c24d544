"""Reading other people's weights safely, and translating their names to Detectron2's."""

from .checkpointer import Checkpointer
from .convert import convert, convert_file, recognize, save_converted
from .converted_state import Converted, PretrainMetadata
from .errors import WeightsError
from .fit import check_weights_file
from .report import Report
from .resumable import checkpoint_iteration, resumable
from .safe_load import load_file

__all__ = [
    "Checkpointer",
    "Converted",
    "PretrainMetadata",
    "Report",
    "WeightsError",
    "check_weights_file",
    "checkpoint_iteration",
    "convert",
    "convert_file",
    "load_file",
    "recognize",
    "resumable",
    "save_converted",
]
