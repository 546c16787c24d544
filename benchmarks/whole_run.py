"""Whole trainings for those that compare them: from the start, or from where one was stopped."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from gn_det.config import CfgNode, ConfigError
from gn_det.engine import Trainer, pretrain, setup
from gn_det.utils import atomic_write

__all__ = ["RUN", "check_run_folder", "pretrain_or_resume", "settings_of", "train_or_resume"]

RUN = "run.json"
Results = dict[str, dict[str, float]]


def settings_of(config: str) -> dict[str, Any]:
    """Return what a config file says now, with its bases; nothing for a name of gn_det's."""
    return CfgNode.load_yaml_with_base(config) if os.path.isfile(config) else {}


def check_run_folder(folder: str | Path, spec: dict[str, Any]) -> None:
    """Write what is trained in ``folder`` to its ``run.json``, or see that this says the same.

    Args:
        folder: of a run; it is made where it is missing.
        spec: of the run, for JSON. Keys that an older file has not are not compared.

    Raises:
        ConfigError: another run is there.
    """
    path = Path(folder, RUN)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        text = json.dumps(spec, indent=2) + "\n"
        atomic_write(path, lambda file: file.write(text.encode()))
        return
    found, spec = json.loads(path.read_text()), json.loads(json.dumps(spec))
    other = {key for key in found if found[key] != spec.get(key)}
    if other:
        raise ConfigError(
            f"{folder} holds a run with another {', '.join(sorted(other))}. Give another --folder, "
            "or remove this one."
        )


def train_or_resume(config: str, opts: list, folder: str) -> Results:
    """Train a detector in ``folder``, or go on with the run there; returns its last evaluation.

    Args:
        config: a file, or a name of gn_det's configs.
        opts: ``[KEY, VALUE, ...]`` without ``OUTPUT_DIR``.
        folder: of the run.
    """
    args = _arguments(config, opts, folder)
    trainer = Trainer(setup(args, verbose=False))
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()  # one that was at its end is evaluated once more, and that is written


def pretrain_or_resume(config: str, opts: list, folder: str) -> Results:
    """Do the same for a classifier."""
    return pretrain(_arguments(config, opts, folder))


def _arguments(config: str, opts: list, folder: str) -> argparse.Namespace:
    return argparse.Namespace(
        config_file=config,
        opts=[*opts, "OUTPUT_DIR", folder],
        resume=True,  # where there is nothing to go on with, it begins
        eval_only=False,
    )
