"""Whole trainings for those that compare them: from the start, or from where one was stopped."""

import argparse

from .pretrain import pretrain
from .setup import has_checkpoint, setup
from .trainer import Trainer

__all__ = ["pretrain_or_go_on", "train_or_go_on"]

Results = dict[str, dict[str, float]]


def train_or_go_on(config: str, opts: list, folder: str) -> Results:
    """Train a detector in ``folder``, or go on with the run there; returns its last evaluation.

    Args:
        config: a file, or a name of gn_det's configs.
        opts: ``[KEY, VALUE, ...]`` without ``OUTPUT_DIR``.
        folder: of the run.
    """
    args = _arguments(config, opts, folder)
    trainer = Trainer(setup(args, verbose=False))
    trainer.resume_or_load(resume=args.resume)
    if trainer.start_iter < trainer.max_iter:
        return trainer.train()
    return Trainer.test(trainer.cfg, trainer.model)


def pretrain_or_go_on(config: str, opts: list, folder: str) -> Results:
    """Do the same for a classifier."""
    return pretrain(_arguments(config, opts, folder))


def _arguments(config: str, opts: list, folder: str) -> argparse.Namespace:
    return argparse.Namespace(
        config_file=config,
        opts=[*opts, "OUTPUT_DIR", folder],
        resume=has_checkpoint(folder),
        eval_only=False,
    )
