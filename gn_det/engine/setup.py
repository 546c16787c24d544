"""From a command line to a checked config and an output folder."""

import argparse
import locale
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import detectron2
import torch
from detectron2.config import CfgNode, LazyConfig
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from omegaconf import DictConfig

import gn_det
from gn_det.checkpoint import check_weights_file, resumable
from gn_det.config import ConfigError, get_cfg
from gn_det.config.key_rules import key_problems
from gn_det.data import check_datasets, register_datasets
from gn_det.model_zoo import get_config_file, list_configs
from gn_det.modeling import check_config
from gn_det.utils import atomic_write

from .determinism import require_determinism
from .device import use_device
from .precision import cpu_has_bfloat16
from .run_log import open_log_file

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
    "read_config_for_model",
    "setup",
    "write_config",
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


def read_config_for_model(config_file: str, opts: list[str]) -> CfgNode:
    """Read a config whose model alone is of interest: keys are checked, data and weights are not.

    Args:
        config_file: See :func:`read_config`.
        opts: See :func:`read_config`.

    Raises:
        gn_det.config.ConfigError: A key or value cannot be used.
        FileNotFoundError: There is no such file.
    """
    cfg = read_config(config_file, opts)
    if fatal := [problem.message for problem in key_problems(cfg) if problem.fatal]:
        raise ConfigError("\n".join(fatal))
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
    """Check config, device, datasets and output folder before any work is done.

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
    use_device(cfg)
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


def setup(args: argparse.Namespace, *, verbose: bool = False) -> CfgNode:
    """Do what every tool does first: config, checks, logger, seed, ``OUTPUT_DIR/config.yaml``.

    Args:
        args: The arguments of :func:`gn_det.engine.argument_parser`; ``resume``, ``eval_only`` and
            ``verbose`` where the tool has them.
        verbose: Whether the screen shows the environment, the whole config and the model as well,
            as Detectron2's tools do. They are in ``OUTPUT_DIR/log.txt`` in either case.

    Returns:
        The finished, frozen config.
    """
    return finish_setup(load_runnable_config(args.config_file, args.opts), args, verbose=verbose)


def finish_setup(
    cfg: CfgNode,
    args: argparse.Namespace,
    *,
    check_data: Callable[..., None] | None = None,
    verbose: bool = False,
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
    cfg: CfgNode | DictConfig, args: argparse.Namespace, folder: str, *, verbose: bool = False
) -> None:
    """Seed the process, and write ``log.txt`` and ``config.yaml``, as Detectron2 does.

    ``DETERMINISTIC`` holds from here on.

    An evaluation leaves the ``config.yaml`` of a training as it is. So does a resumed run, until
    :meth:`gn_det.engine.training_run.TrainingRun.resume_or_load` has accepted the config.

    Args:
        cfg: A finished config, or a LazyConfig.
        args: See :func:`setup`.
        folder: The output folder of the run, which ``cfg`` names.
        verbose: See :func:`setup`.

    Raises:
        gn_det.config.ConfigError: The folder is an address, its name is not in UTF-8, or it
            cannot be written.
        gn_det.utils.SaveError: ``config.yaml`` cannot be written.
    """
    if "://" in folder:
        raise ConfigError(
            f"The output folder {folder} is an address. Checkpoints are written to a folder of "
            "this machine, so that none is half written: give a path, and copy the run later."
        )
    if any("\ud800" <= letter <= "\udfff" for letter in folder):
        raise ConfigError(
            f"The output folder {ascii(folder)} is not in UTF-8, as TensorBoard's files need it: "
            "give another path."
        )
    eval_only = getattr(args, "eval_only", False)
    python_config = isinstance(cfg, DictConfig)
    try:
        open_log_file(folder, verbose=verbose or getattr(args, "verbose", False))
    except OSError as error:
        raise ConfigError(
            f"The output folder {folder} cannot be written: {error.strerror}. See its permissions "
            f"and disk, or give another {'train.output_dir' if python_config else 'OUTPUT_DIR'}."
        ) from error
    rank = comm.get_rank()
    logger.debug(f"Rank of current process: {rank}. World size: {comm.get_world_size()}")
    if comm.is_main_process():
        what = "Evaluating" if eval_only else "Training"
        logger.info(
            f"{what} {args.config_file} in {folder}. log.txt there has all details: versions, "
            "config and model."
        )
        _log_versions(args)
        text = _config_text(cfg)
        logger.debug(f"Running with full config:\n{text}")
        keeps = eval_only or getattr(args, "resume", False)
        if not (keeps and os.path.exists(os.path.join(folder, "config.yaml"))):
            _write_config(text, folder)
    seed = cfg.train.get("seed", -1) if python_config else cfg.SEED
    seed_all_rng(None if seed is None or seed < 0 else seed + rank)
    if not eval_only:
        torch.backends.cudnn.benchmark = (
            cfg.train.get("cudnn_benchmark", False) if python_config else cfg.CUDNN_BENCHMARK
        )
    if cfg.train.get("deterministic", False) if python_config else cfg.DETERMINISTIC:
        require_determinism()


def _log_versions(args: argparse.Namespace) -> None:
    logger.debug(
        f"gn_det {gn_det.__version__}, torch {torch.__version__}, detectron2 "
        f"{detectron2.__version__}. Command line: {shlex.join(sys.argv)}"
    )
    logger.debug(f"Command line arguments: {args}")
    logging.getLogger("torch").setLevel(logging.ERROR)  # notes to PyTorch's developers
    logger.debug(f"Environment info:\n{collect_env_info()}")


def write_config(cfg: CfgNode | DictConfig, folder: str) -> None:
    """Write ``FOLDER/config.yaml``.

    Args:
        cfg: A finished config, or a LazyConfig.
        folder: The output folder of the run.
    """
    _write_config(_config_text(cfg), folder)


def _write_config(text: str, folder: str) -> None:
    path = os.path.join(folder, "config.yaml")
    atomic_write(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def _config_text(cfg: CfgNode | DictConfig) -> str:
    if isinstance(cfg, CfgNode):
        return cfg.dump()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        LazyConfig.save(cfg, str(path))  # in the encoding of the locale
        return path.read_text(locale.getpreferredencoding(False)) if path.exists() else ""
