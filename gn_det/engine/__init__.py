"""One set-up of training and evaluation, used by every tool."""

from .arguments import (
    add_options,
    add_verbose,
    argument_parser,
    docstring_parser,
    output_file,
    positive,
    training_parser,
)
from .debug.nonfinite import NonFiniteError
from .debug.replay import replay
from .distributed.launch import run
from .errors import exit_on_error
from .evaluation_run import (
    by_dataset,
    evaluate_only,
    load_to_evaluate,
    record_evaluation,
    verify,
)
from .grad_accum import GradAccumTrainer
from .hooks.progress import ProgressBar, in_terminal
from .interrupt import exit_on_interrupt
from .lazy_config import is_lazy, load_lazy_config
from .lazy_run import run_lazy
from .precision import autocast, cpu_has_bfloat16
from .pretrain import pretrain
from .run_log import hold_warnings, release_warnings, start_messages
from .setup import (
    check_run,
    has_checkpoint,
    load_runnable_config,
    read_config,
    read_config_for_model,
    setup,
)
from .trainer import Trainer
from .training_run import TrainingRun

__all__ = [
    "GradAccumTrainer",
    "NonFiniteError",
    "ProgressBar",
    "Trainer",
    "TrainingRun",
    "add_options",
    "add_verbose",
    "argument_parser",
    "autocast",
    "by_dataset",
    "check_run",
    "cpu_has_bfloat16",
    "docstring_parser",
    "evaluate_only",
    "exit_on_error",
    "exit_on_interrupt",
    "has_checkpoint",
    "hold_warnings",
    "in_terminal",
    "is_lazy",
    "load_lazy_config",
    "load_runnable_config",
    "load_to_evaluate",
    "output_file",
    "positive",
    "pretrain",
    "read_config",
    "read_config_for_model",
    "record_evaluation",
    "release_warnings",
    "replay",
    "run",
    "run_lazy",
    "setup",
    "start_messages",
    "training_parser",
    "verify",
]
