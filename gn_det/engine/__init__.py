"""One set-up of training and evaluation, used by every tool."""

from .arguments import add_options, argument_parser
from .precision import autocast
from .progress import ProgressBar, in_terminal
from .setup import check_run, finish_config, has_checkpoint, run, setup
from .step import StepTrainer
from .trainer import Trainer

__all__ = [
    "ProgressBar",
    "StepTrainer",
    "Trainer",
    "add_options",
    "argument_parser",
    "autocast",
    "check_run",
    "finish_config",
    "has_checkpoint",
    "in_terminal",
    "run",
    "setup",
]
