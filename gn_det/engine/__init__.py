"""One set-up of training and evaluation, used by every tool."""

from .arguments import add_options, argument_parser, docstring_parser, training_parser
from .lazy import finish_lazy, is_lazy, run_lazy
from .precision import autocast, cpu_has_bfloat16
from .pretrain import pretrain
from .progress import ProgressBar, in_terminal
from .setup import check_run, finish_config, has_checkpoint, read_config, run, setup
from .step import Diverged, StepTrainer
from .trainer import Trainer

__all__ = [
    "Diverged",
    "ProgressBar",
    "StepTrainer",
    "Trainer",
    "add_options",
    "argument_parser",
    "autocast",
    "check_run",
    "cpu_has_bfloat16",
    "docstring_parser",
    "finish_config",
    "finish_lazy",
    "has_checkpoint",
    "in_terminal",
    "is_lazy",
    "pretrain",
    "read_config",
    "run",
    "run_lazy",
    "setup",
    "training_parser",
]
