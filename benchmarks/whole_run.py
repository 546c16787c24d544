"""Whole trainings that can be stopped and resumed, for benchmarks and studies."""

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
    """Return the keys of a config file and its bases as they are now.

    Args:
        config: A file; or the name of one of gn_det's configs, which has no keys here.
    """
    return CfgNode.load_yaml_with_base(config) if os.path.isfile(config) else {}


def check_run_folder(folder: str | Path, spec: dict[str, Any]) -> None:
    """Write what is trained in a folder to its ``run.json``, or check that this says the same.

    Args:
        folder: The folder of a run. It is created if it is missing.
        spec: The description of the run, for JSON. Keys that an older file lacks are not compared.

    Raises:
        ConfigError: The folder holds another run.
    """
    path = Path(folder, RUN)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        text = json.dumps(spec, indent=2) + "\n"
        atomic_write(path, lambda file: file.write(text.encode()))
        return
    found, spec = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(spec))
    other = {key for key in found if found[key] != spec.get(key)}
    if other:
        raise ConfigError(
            f"{folder} holds a run with another {', '.join(sorted(other))}. Give another --folder, "
            "or remove this one."
        )


def train_or_resume(config: str, opts: list, folder: str) -> Results:
    """Train a detector in a folder, or resume the run there.

    Args:
        config: A file, or the name of one of gn_det's configs.
        opts: The options ``[KEY, VALUE, ...]`` without ``OUTPUT_DIR``.
        folder: The output folder of the run.

    Returns:
        The results of the last evaluation.
    """
    args = _arguments(config, opts, folder)
    trainer = Trainer(setup(args, verbose=False))
    trainer.resume_or_load(resume=args.resume)
    return trainer.train() or {}  # a finished run is only evaluated again


def pretrain_or_resume(config: str, opts: list, folder: str) -> Results:
    """Train a classifier in a folder, or resume the run there.

    Args:
        config: See :func:`train_or_resume`.
        opts: See :func:`train_or_resume`.
        folder: See :func:`train_or_resume`.

    Returns:
        The results of the last evaluation.
    """
    return pretrain(_arguments(config, opts, folder))


def _arguments(config: str, opts: list, folder: str) -> argparse.Namespace:
    return argparse.Namespace(
        config_file=config,
        opts=[*opts, "OUTPUT_DIR", folder],
        resume=True,  # without a checkpoint the run starts
        eval_only=False,
    )
