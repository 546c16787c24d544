"""One set-up of training and evaluation, used by every tool."""

from .arguments import (
    add_options,
    argument_parser,
    docstring_parser,
    output_file,
    training_parser,
)
from .debug.nonfinite import NonFiniteError
from .debug.replay import replay
from .errors import exit_on_error
from .grad_accum import GradAccumTrainer
from .hooks.progress import ProgressBar, in_terminal
from .lazy import finish_lazy, is_lazy, run_lazy
from .load_to_evaluate import load_to_evaluate
from .precision import autocast, cpu_has_bfloat16
from .pretrain import pretrain
from .results import by_dataset, record_evaluation, verify
from .setup import check_run, has_checkpoint, load_runnable_config, read_config, run, setup
from .trainer import Trainer

__all__ = [
    "GradAccumTrainer",
    "NonFiniteError",
    "ProgressBar",
    "Trainer",
    "add_options",
    "argument_parser",
    "autocast",
    "by_dataset",
    "check_run",
    "cpu_has_bfloat16",
    "docstring_parser",
    "exit_on_error",
    "finish_lazy",
    "has_checkpoint",
    "in_terminal",
    "is_lazy",
    "load_runnable_config",
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
