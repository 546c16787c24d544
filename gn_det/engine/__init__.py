"""One set-up of training and evaluation, used by every tool."""

from .arguments import (
    add_options,
    argument_parser,
    docstring_parser,
    output_file,
    training_parser,
)
from .lazy import finish_lazy, is_lazy, run_lazy
from .loaded import load_to_evaluate
from .nonfinite import NonFiniteError
from .precision import autocast, cpu_has_bfloat16
from .pretrain import pretrain
from .progress import ProgressBar, in_terminal
from .replay import replay
from .results import by_dataset, record_evaluation, verify
from .setup import check_run, finish_config, has_checkpoint, read_config, run, setup
from .step import StepTrainer
from .trainer import Trainer

__all__ = [
    "NonFiniteError",
    "ProgressBar",
    "StepTrainer",
    "Trainer",
    "add_options",
    "argument_parser",
    "autocast",
    "by_dataset",
    "check_run",
    "cpu_has_bfloat16",
    "docstring_parser",
    "finish_config",
    "finish_lazy",
    "has_checkpoint",
    "in_terminal",
    "is_lazy",
    "load_to_evaluate",
    "output_file",
    "pretrain",
    "read_config",
    "record_evaluation",
    "replay",
    "run",
    "run_lazy",
    "setup",
    "training_parser",
    "verify",
]
