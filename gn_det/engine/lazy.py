"""Training and evaluation of LazyConfigs: Python files with model, dataloader, optimizer, ...

They are what Detectron2's tools/lazyconfig_train_net.py runs. Here they get mixed precision on any
device, the checks of datasets and output folder, and overrides that are checked. A Python config
is a program: it can do all that its author can think of.
"""

import argparse
import difflib
import os
from collections.abc import Iterable, Iterator
from functools import partial

from detectron2.config import LazyConfig, instantiate
from detectron2.data import build_detection_train_loader, get_detection_dataset_dicts
from detectron2.data.samplers import TrainingSampler
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils import comm
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from gn_det.config import (
    CfgNode,
    ConfigError,
    UnknownKeyError,
    images_per_micro_batch,
    solver_problems,
)
from gn_det.data import check_datasets, check_images, stream_of
from gn_det.engine.hooks.progress import inference_bar, quiet_inference
from gn_det.model_zoo import get_config, lazy_config

from .evaluation_run import evaluate_only
from .lazy_facts import facts_of, in_lazy_words
from .precision import autocast
from .setup import (
    check_output_folder,
    fall_back_to_cpu,
    has_checkpoint,
    is_zoo_name,
    open_output_folder,
)
from .training_run import TrainingRun

__all__ = ["finish_lazy", "is_lazy", "run_lazy"]

PARTS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")


def is_lazy(config_file: str) -> bool:
    """Return whether a config is a Python file."""
    return config_file.endswith(".py")


def run_lazy(args: argparse.Namespace) -> dict | None:
    """Train and evaluate, or only evaluate, the LazyConfig of a command line.

    Args:
        args: of :func:`gn_det.engine.argument_parser`, with ``resume`` and ``eval_only``; its
            ``opts`` are ``key=value``.

    Returns:
        The results of the last evaluation; None where there was none.

    Raises:
        ConfigError, FileNotFoundError: see :func:`finish_lazy`; or datasets, output folder or
            frozen layers are not as they must be.
    """
    cfg = finish_lazy(args.config_file, args.opts)
    facts = facts_of(cfg)
    if "dataloader" in cfg:
        check_datasets(facts, training=not args.eval_only)
    if not args.eval_only and not args.resume:
        check_output_folder(cfg.train.output_dir, "train.output_dir")
    open_output_folder(cfg, args, cfg.train.output_dir)
    model = instantiate(cfg.model).to(cfg.train.device)
    evaluate = partial(_evaluate, cfg, facts)
    weights = cfg.train.init_checkpoint
    if args.eval_only:
        key = "train.init_checkpoint"
        return evaluate_only(facts, model, evaluate, weights, resume=args.resume, key=key)
    if not (args.resume and has_checkpoint(cfg.train.output_dir)):
        _refuse_frozen_random(cfg, model)
    cfg.optimizer.params.model = model
    optimizer, scheduler = instantiate(cfg.optimizer), instantiate(cfg.lr_multiplier)
    loader = _train_loader(cfg, facts)
    run = TrainingRun(facts, model, optimizer, scheduler, loader, evaluate, ddp=cfg.train.ddp)
    run.steps.cfg = None  # the facts do not make the model
    run.trainer.register_hooks(run.build_hooks(log_period=cfg.train.log_period))
    run.resume_or_load(weights, resume=args.resume)
    return run.train()


def finish_lazy(config_file: str, opts: list[str]) -> DictConfig:
    """Read a LazyConfig and the options of a command line. This runs the file's code.

    Args:
        config_file: a Python file, or the name of one of gn_det's configs with ``.py``.
        opts: ``["key=value", ...]`` with keys that exist; ``+key=value`` adds one.

    Returns:
        The config; what ``train`` lacks is filled in. ``train.device`` is "cpu" where there is no
        GPU.

    Raises:
        ConfigError: a syntax error, a missing part, or an option that cannot be.
        FileNotFoundError: no such file.
    """
    cfg = _load(config_file)
    missing = [part for part in PARTS if part not in cfg]
    if missing:
        raise ConfigError(
            f"{config_file}: it has no {', '.join(missing)}. A LazyConfig has {', '.join(PARTS)}, "
            "each of them a dict or a LazyCall."
        )
    defaults = lazy_config(get_config("mask_rcnn_R50_gn_all.yaml")).train
    defaults.init_checkpoint = ""
    cfg.train = OmegaConf.merge(defaults, cfg.train)
    for word in opts:
        _override(cfg, word)
    facts = facts_of(cfg)
    fall_back_to_cpu(facts)
    cfg.train.device = facts.MODEL.DEVICE
    cfg.train.amp.enabled, cfg.train.amp.dtype = facts.SOLVER.AMP.ENABLED, facts.SOLVER.AMP.DTYPE
    if cfg.train.amp.dtype not in ("float16", "bfloat16"):
        raise ConfigError(f"train.amp.dtype is {cfg.train.amp.dtype!r}, not float16 or bfloat16.")
    for problem in solver_problems(facts):
        raise ConfigError(in_lazy_words(problem.message))
    return cfg


def _load(config_file: str) -> DictConfig:
    if is_zoo_name(config_file):
        return get_config(os.path.basename(config_file))
    if not os.path.isfile(config_file):
        raise FileNotFoundError(f"Config file '{config_file}' does not exist.")
    try:
        return LazyConfig.load(config_file)
    except SyntaxError as error:
        cause = error.__cause__ if isinstance(error.__cause__, SyntaxError) else error
        where = f"{cause.filename if error is cause else config_file}:{cause.lineno}"
        raise ConfigError(f"{where}: it is not Python: {cause.msg}.") from None


def _override(cfg: DictConfig, word: str) -> None:
    """Set one ``key=value``, in place."""
    key, equals, _ = word.partition("=")
    if word.startswith("--"):
        raise ConfigError(
            f"Command line: {word} stands where a key=value belongs. Options go before all of them."
        )
    if not equals:
        raise ConfigError(
            f"Command line: options of a Python config are key=value, such as "
            f"train.max_iter=100, but {word!r} was given."
        )
    new, key = key.startswith("+"), key.removeprefix("+")
    names = list(_flatten(OmegaConf.to_container(cfg)))
    if key not in names and not new:
        close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
        meant = f" Was {close[0]} meant?" if close else ""
        raise UnknownKeyError(
            f"Command line: there is no key {key}.{meant} +{word} would add it.", key
        )
    try:
        before = OmegaConf.select(cfg, key)
        LazyConfig.apply_overrides(cfg, [word])
        after = OmegaConf.select(cfg, key)
    except (OmegaConfBaseException, KeyError, ValueError, SyntaxError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"Command line: {word!r} cannot be set: {reason}") from None
    except Exception as error:
        # hydra, which parses the words where it is installed, has errors of its own
        if not type(error).__module__.startswith("hydra"):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"Command line: {word!r} cannot be read: {reason}") from None
    if _other_kind(before, after):
        raise ConfigError(
            f"Command line: {key} is {before!r} in the config; {after!r} is of another type."
        )


def _flatten(node: dict | list, prefix: str = "") -> Iterator[str]:
    """Yield the path of each key, of groups as well; list items go by their number."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield f"{prefix}{key}"
        if isinstance(value, dict | list):
            yield from _flatten(value, f"{prefix}{key}.")


def _other_kind(before: object, after: object) -> bool:
    if isinstance(before, DictConfig) != isinstance(after, DictConfig):
        return before is not None
    plain = (bool, int, float, str)
    if not isinstance(before, plain) or not isinstance(after, plain):
        return False
    return type(before) is not type(after) and (type(before), type(after)) != (float, int)


def _refuse_frozen_random(cfg: DictConfig, model: nn.Module) -> None:
    if cfg.train.init_checkpoint or cfg.train.allow_frozen_random:
        return
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    frozen += [name for name, m in model.named_modules() if isinstance(m, FrozenBatchNorm2d)]
    if frozen:
        raise ConfigError(
            f"train.init_checkpoint is empty and {len(frozen)} layers are frozen ({frozen[0]}, "
            "...): they would stay random. Set model.backbone.freeze_at=0 and a norm that is not "
            "FrozenBN, or give weights. Set train.allow_frozen_random=True if this is meant."
        )


def _train_loader(cfg: DictConfig, facts: CfgNode) -> Iterable:
    """Build the loader of the training data, once every image file is known to be there.

    A loader whose dataset is not of Detectron2's ``get_detection_dataset_dicts`` is not checked:
    it need not read files. One that is not Detectron2's, or has options of its own, is built as it
    says; Detectron2's own becomes a stream that a resumed run can enter where it stopped.
    """
    node = cfg.dataloader.train
    if _target(node.get("dataset")) is get_detection_dataset_dicts:
        node.dataset._target_ = _dicts_with_images
    plain = {"_target_", "dataset", "mapper", "total_batch_size", "aspect_ratio_grouping"}
    if _target(node) is not build_detection_train_loader or set(node) - plain - {"num_workers"}:
        return instantiate(node)
    dicts = instantiate(node.dataset)
    return stream_of(
        dicts,
        instantiate(node.mapper),
        partial(TrainingSampler, len(dicts)),
        images_per_step=node.total_batch_size,
        batch_size=images_per_micro_batch(facts, comm.get_world_size()),
        aspect_ratio_grouping=node.get("aspect_ratio_grouping", True),
        num_workers=node.get("num_workers", 0),
    )


def _target(node: DictConfig | None) -> object:
    target = OmegaConf.select(node, "_target_") if node is not None else None
    return locate(target) if isinstance(target, str) else target


def _dicts_with_images(names: str | list[str], **kwargs) -> list[dict]:
    dicts = get_detection_dataset_dicts(names, **kwargs)
    check_images(dicts, f"dataloader.train.dataset.names {names}")
    return dicts


def _evaluate(cfg: DictConfig, facts: CfgNode, model: nn.Module) -> dict | None:
    if "evaluator" not in cfg.dataloader:
        return None
    loader = inference_bar(instantiate(cfg.dataloader.test), "test")
    with autocast(facts), quiet_inference():
        results = inference_on_dataset(model, loader, instantiate(cfg.dataloader.evaluator))
    if comm.is_main_process():
        print_csv_format(results)
    return results
