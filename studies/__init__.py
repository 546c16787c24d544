"""The paper's experiments on a small scale: their descriptions, and the code that runs them."""

from .plan import Run, Study, list_studies, load_study
from .plot import plot
from .report import page, write_page
from .runner import run_study
from .table import table

__all__ = [
    "Run",
    "Study",
    "run_study",
    "list_studies",
    "load_study",
    "page",
    "plot",
    "table",
    "write_page",
]
