"""The paper's experiments at desk scale: files that describe them, and what carries them out."""

from .plan import Run, Study, list_studies, load_study
from .plot import plot
from .report import page, write_page
from .table import table
from .whole import carry_out_study

__all__ = [
    "Run",
    "Study",
    "carry_out_study",
    "list_studies",
    "load_study",
    "page",
    "plot",
    "table",
    "write_page",
]
