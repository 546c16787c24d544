"""From a command line to a checked config and an output folder."""

import argparse
import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, default_setup
from detectron2.utils import comm
from omegaconf import DictConfig

from gn_det.checkpoint import check_weights_file, resumable
from gn_det.config import ConfigError, get_cfg
from gn_det.data import check_datasets, register_datasets
from gn_det.model_zoo import get_config_file, list_configs
from gn_det.modeling import check_config

from .precision import cpu_has_bfloat16

__all__ = [
    "check_output_folder",
    "check_run",
    "fall_back_to_cpu",
    "finish_setup",
    "has_checkpoint",
    "is_zoo_name",
    "load_runnable_config",
    "open_output_folder",
    "read_config",
    "setup",
]

logger = logging.getLogger(__name__)


def load_runnable_config(config_file: str, opts: list[str]) -> CfgNode:
    """Read a config as :func:`read_config` does, and make it one that this machine can run.

    Args:
        config_file: See :func:`read_config`.
        opts: See :func:`read_config`.

    Returns:
        A config that is not frozen. ``MODEL.DEVICE`` is "cpu" where there is no GPU.
    """
    cfg = read_config(config_file, opts)
    fall_back_to_cpu(cfg)
    return cfg


def read_config(config_file: str, opts: list[str]) -> CfgNode:
    """Read a config and the options of a command line.

    Args:
        config_file: A YAML file, or the name of one of gn_det's configs; "" for none.
        opts: The options ``[KEY, VALUE, ...]``.

    Raises:
        gn_det.config.ConfigError: A key or value cannot be used.
        FileNotFoundError: There is no such file.
    """
    if is_zoo_name(config_file) and os.path.basename(config_file) in list_configs():
        config_file = get_config_file(os.path.basename(config_file))
    cfg = get_cfg()
    if config_file:
        cfg.merge_from_file(config_file)
    cfg.merge_from_list(opts)
    register_datasets(cfg)
    return cfg


def is_zoo_name(config_file: str) -> bool:
    """Return whether this may name one of gn_det's configs, as there is no such file.

    A path into a folder of the user's own is no name: another config would train in its place.

    Args:
        config_file: The ``--config`` of a command line.
    """
    own = os.path.isfile(config_file)
    return not own and os.path.dirname(config_file) in ("", "configs", "configs/pretrain")


def fall_back_to_cpu(cfg: CfgNode) -> None:
    """Set ``MODEL.DEVICE`` "cpu" where there is no GPU, and a precision that the CPU has.

    Args:
        cfg: The config, which is changed.
    """
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        _warn_in_main("No GPU found: running on the CPU (MODEL.DEVICE cpu).")
        cfg.MODEL.DEVICE = "cpu"
        if cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.DTYPE == "float16":
            _replace_float16(cfg)


def _warn_in_main(message: str) -> None:
    if comm.is_main_process():
        logger.warning(message)


def _replace_float16(cfg: CfgNode) -> None:
    if cpu_has_bfloat16() is False:
        _warn_in_main(
            "float16 is for GPUs, and this CPU has no bfloat16: running in float32 "
            "(SOLVER.AMP.ENABLED False)."
        )
        cfg.SOLVER.AMP.ENABLED = False
    else:
        _warn_in_main("float16 is for GPUs: running in bfloat16 (SOLVER.AMP.DTYPE bfloat16).")
    cfg.SOLVER.AMP.DTYPE = "bfloat16"


def check_run(
    cfg: CfgNode,
    *,
    training: bool = True,
    resume: bool = False,
    check_data: Callable[..., None] | None = None,
) -> None:
    """Check config, datasets and output folder before any work is done.

    Args:
        cfg: A finished config.
        training: Whether the run trains; False: it only evaluates.
        resume: Whether the run in ``OUTPUT_DIR``, where there is one, is resumed.
        check_data: A function ``(cfg, training=...)`` that raises a DatasetError; default: the
            checks of detection datasets.

    Raises:
        gn_det.config.ConfigError: The config cannot work, its weights do not fit, or the output
            folder holds another run.
        FileNotFoundError: There is no file of weights.
        gn_det.data.DatasetError: A dataset is unknown, missing, or does not fit the config.
    """
    resumed = resume and has_checkpoint(cfg.OUTPUT_DIR)
    check_config(
        _scaled_to_world_size(cfg) if training else cfg,
        training=training,
        num_processes=comm.get_world_size(),
        weights_loaded=resumed,
    )
    if training and not resumed:
        check_weights_file(cfg.MODEL.WEIGHTS, cfg)
    (check_data or _check_detection_data)(cfg, training=training)
    if training and not resume:
        check_output_folder(cfg.OUTPUT_DIR)


def _check_detection_data(cfg: CfgNode, *, training: bool) -> None:
    if not training and not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty: there is nothing to evaluate on.")
    check_datasets(cfg, training=training)


def _scaled_to_world_size(cfg: CfgNode) -> CfgNode:
    """Return the config as it is scaled from ``REFERENCE_WORLD_SIZE`` to these processes."""
    batch, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference > 0 and batch % reference:
        raise ConfigError(
            f"SOLVER.REFERENCE_WORLD_SIZE {reference} processes cannot share "
            f"SOLVER.IMS_PER_BATCH {batch} equally."
        )
    return DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())


def check_output_folder(folder: str, key: str = "OUTPUT_DIR") -> None:
    """Refuse to train a new run in a folder that holds another one.

    Args:
        folder: The output folder of the run.
        key: The config key that names the folder, for the message.

    Raises:
        gn_det.config.ConfigError: The folder holds checkpoints.
    """
    if has_checkpoint(folder) or os.path.exists(os.path.join(folder, "model_best.pth")):
        raise ConfigError(
            f"{key} {folder} holds the checkpoints of another run, which would be "
            f"overwritten. Resume that run with --resume, or give another {key}."
        )


def has_checkpoint(folder: str) -> bool:
    """Return whether a run left a checkpoint in ``folder``."""
    return any(map(os.path.exists, resumable(folder)))


def setup(args: argparse.Namespace, *, verbose: bool = True) -> CfgNode:
    """Do what every tool does first: config, checks, logger, seed, ``OUTPUT_DIR/config.yaml``.

    Args:
        args: The arguments of :func:`gn_det.engine.argument_parser`; ``resume`` and ``eval_only``
            where the tool has them.
        verbose: Whether to print the environment, the whole config and the model, as Detectron2's
            tools do. They are in ``OUTPUT_DIR/log.txt`` in either case.

    Returns:
        The finished, frozen config.
    """
    return finish_setup(load_runnable_config(args.config_file, args.opts), args, verbose=verbose)


def finish_setup(
    cfg: CfgNode,
    args: argparse.Namespace,
    *,
    check_data: Callable[..., None] | None = None,
    verbose: bool = True,
) -> CfgNode:
    """Do what :func:`setup` does once the config is read.

    Args:
        cfg: The config, as :func:`load_runnable_config` returns it.
        args: See :func:`setup`.
        check_data: See :func:`check_run`.
        verbose: See :func:`setup`.

    Returns:
        The same config, frozen.
    """
    training = not getattr(args, "eval_only", False)
    resume = getattr(args, "resume", False)
    check_run(cfg, training=training, resume=resume, check_data=check_data)
    cfg.freeze()
    open_output_folder(cfg, args, cfg.OUTPUT_DIR, verbose=verbose)
    return cfg


def open_output_folder(
    cfg: CfgNode | DictConfig, args: argparse.Namespace, folder: str, *, verbose: bool = True
) -> None:
    """Seed the process, and write ``log.txt`` and ``config.yaml``, as Detectron2 does.

    An evaluation leaves the ``config.yaml`` of a training as it is.

    Args:
        cfg: A finished config, or a LazyConfig.
        args: See :func:`setup`.
        folder: The output folder of the run, which ``cfg`` names.
        verbose: See :func:`setup`.

    Raises:
        gn_det.config.ConfigError: The folder is an address.
    """
    if "://" in folder:
        raise ConfigError(
            f"The output folder {folder} is an address. Checkpoints are written to a folder of "
            "this machine, so that none is half written: give a path, and copy the run later."
        )
    # Detectron2 reads this file again to log it; the name of a config is no path
    shown = argparse.Namespace(**{**vars(args), "config_file": ""})
    with preserve_config_yaml(folder, keep=getattr(args, "eval_only", False)):
        if verbose:
            default_setup(cfg, shown)
        else:
            _quiet_setup(cfg, shown)
    _log_to_file()


@contextlib.contextmanager
def preserve_config_yaml(folder: str, *, keep: bool) -> Iterator[None]:
    """Restore ``folder/config.yaml`` at the end, where ``keep``: an evaluation is no training."""
    path = Path(folder, "config.yaml")
    before = path.read_bytes() if keep and comm.is_main_process() and path.exists() else None
    try:
        yield
    finally:
        if before is not None:
            path.write_bytes(before)


def _log_to_file() -> None:
    """Write gn_det's messages to Detectron2's ``OUTPUT_DIR/log.txt`` too."""
    ours = logging.getLogger("gn_det")
    ours.setLevel(logging.INFO)
    before = [h for h in ours.handlers if _is_log_file(h)]
    for handler in before:
        ours.removeHandler(handler)
    files = [h for h in logging.getLogger("detectron2").handlers if _is_log_file(h)]
    if files:
        ours.addHandler(files[-1])


def _is_log_file(handler: logging.Handler) -> bool:
    name = getattr(getattr(handler, "stream", None), "name", "")
    return isinstance(name, str) and os.path.basename(name).startswith("log.txt")


def _quiet_setup(cfg: CfgNode | DictConfig, args: argparse.Namespace) -> None:
    # notes to torch's and Detectron2's developers, which a user can do nothing about
    warnings.filterwarnings("ignore", module="torch|detectron2|pycocotools")
    logging.getLogger("torch").setLevel(logging.ERROR)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        default_setup(cfg, args)
    console = logging.StreamHandler(sys.stdout)
    console.setFormatter(logging.Formatter("%(message)s"))
    for name in ("detectron2", "fvcore"):
        for handler in logging.getLogger(name).handlers[:]:
            if getattr(handler, "stream", None) is nowhere:
                logging.getLogger(name).removeHandler(handler)
    events = logging.getLogger("detectron2.utils.events")
    events.addHandler(console)
    events.setLevel(logging.INFO)
