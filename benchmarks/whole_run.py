"""Whole training runs that can be interrupted and resumed, for benchmarks and studies."""

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
    """Return the present content of a config file and its bases.

    Args:
        config: The path of a config file. For the name of a gn_det config the result is empty.
    """
    return CfgNode.load_yaml_with_base(config) if os.path.isfile(config) else {}


def check_run_folder(folder: str | Path, spec: dict[str, Any]) -> None:
    """Write the description of a run to ``run.json`` in its folder, or compare it with that file.

    Args:
        folder: The folder of the run. It is created if it is missing.
        spec: The description of the run, for JSON. Keys that are not in the file are not compared.

    Raises:
        ConfigError: The folder holds another run.
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
    """Train a detector, or resume its training, and return the results of the last evaluation.

    Args:
        config: The path of a config file, or the name of a gn_det config.
        opts: The keys to change, ``[KEY, VALUE, ...]`` without ``OUTPUT_DIR``.
        folder: The folder of the run.
    """
    args = _arguments(config, opts, folder)
    trainer = Trainer(setup(args, verbose=False))
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()  # a finished run is only evaluated again


def pretrain_or_resume(config: str, opts: list, folder: str) -> Results:
    """Pre-train a classifier, or resume it; see :func:`train_or_resume`."""
    return pretrain(_arguments(config, opts, folder))


def _arguments(config: str, opts: list, folder: str) -> argparse.Namespace:
    return argparse.Namespace(
        config_file=config,
        opts=[*opts, "OUTPUT_DIR", folder],
        resume=True,  # without a checkpoint the training starts
        eval_only=False,
    )
