"""Training and evaluation of a LazyConfig, with the set-up that YAML configs have.

A LazyConfig gets mixed precision on any device, and the checks of datasets, images, output folder
and frozen layers.
"""

import argparse
import contextlib
import copy
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from detectron2.config import instantiate
from detectron2.data import (
    DatasetMapper,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.samplers import TrainingSampler
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn

from gn_det.checkpoint import check_weights_file
from gn_det.config import CfgNode, ConfigError, images_per_micro_batch, max_detections
from gn_det.config.values import package_problems
from gn_det.data import DatasetError, check_datasets, check_images, needs_bitmasks, stream_of
from gn_det.engine.hooks.progress import inference_bar
from gn_det.evaluation import build_evaluator, scores_of
from gn_det.utils import and_more

from .device import use_device
from .evaluation_run import evaluate_only
from .lazy_config import (
    PARTS,
    key_paths,
    load_lazy_config,
    settings_of,
    target_of,
    with_lazy_names,
)
from .precision import autocast
from .setup import check_output_folder, has_checkpoint, open_output_folder
from .training_run import TrainingRun

__all__ = ["run_lazy"]


@contextlib.contextmanager
def _lazy_names() -> Iterator[None]:
    """Let the messages of checks name a LazyConfig's keys."""
    try:
        yield
    except (ConfigError, DatasetError) as error:
        error.args = (with_lazy_names(str(error)),)
        raise


@_lazy_names()
def run_lazy(args: argparse.Namespace) -> dict | None:
    """Train and evaluate, or only evaluate, the LazyConfig of a command line.

    Args:
        args: The arguments of :func:`gn_det.engine.argument_parser`, with ``resume`` and
            ``eval_only``; its ``opts`` are ``key=value``.

    Returns:
        The results of the last evaluation; None where there was none.

    Raises:
        ConfigError, FileNotFoundError: See :func:`gn_det.engine.load_lazy_config`. A ConfigError
            too where the output folder holds another run, a package is missing, or random layers
            would stay frozen.
        gn_det.data.DatasetError: A dataset is unknown, missing, or does not fit the config.
    """
    cfg = load_lazy_config(args.config_file, args.opts)
    values, config = _values_to_record(cfg), copy.deepcopy(cfg)
    settings = settings_of(cfg)
    use_device(settings)
    if target_of(cfg.dataloader.get("evaluator")) is build_evaluator:
        for name in settings.DATASETS.TEST:
            scores_of(name)  # an unknown evaluator_type is an error
    check_datasets(settings, training=not args.eval_only)
    for problem in package_problems(settings) if not args.eval_only else ():
        raise ConfigError(problem.message)
    if not args.eval_only and not args.resume:
        check_output_folder(cfg.train.output_dir, "train.output_dir")
    open_output_folder(cfg, args, cfg.train.output_dir)
    model = instantiate(cfg.model).to(cfg.train.device)
    evaluate = partial(_evaluate, cfg, settings)
    weights = cfg.train.init_checkpoint
    if args.eval_only:
        key = "train.init_checkpoint"
        return evaluate_only(settings, model, evaluate, weights, resume=args.resume, key=key)
    if not (args.resume and has_checkpoint(cfg.train.output_dir)):
        _refuse_frozen_random(cfg, model)
        check_weights_file(weights, settings, model)
    cfg.optimizer.params.model = model
    optimizer, scheduler = instantiate(cfg.optimizer), instantiate(cfg.lr_multiplier)
    loader = _train_loader(cfg, settings)
    run = TrainingRun(
        settings,
        model,
        optimizer,
        scheduler,
        loader,
        evaluate,
        ddp=cfg.train.ddp,
        values=values,
        config=config,
        length_key="train.max_iter",
    )
    run.steps.cfg = None  # the settings do not build the model
    run.trainer.register_hooks(run.build_hooks(log_period=cfg.train.log_period))
    run.resume_or_load(weights, resume=args.resume)
    return run.train()


def _values_to_record(cfg: DictConfig) -> dict[str, Any]:
    """Return what the run depends on; references to the output folder, which may move, lack it."""
    cfg = copy.deepcopy(cfg)
    cfg.train.output_dir = ""
    values = OmegaConf.to_container(cfg, resolve=True)
    return {part: values[part] for part in PARTS}


def _refuse_frozen_random(cfg: DictConfig, model: nn.Module) -> None:
    if cfg.train.init_checkpoint or cfg.train.allow_frozen_random:
        return
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    frozen += [name for name, m in model.named_modules() if isinstance(m, FrozenBatchNorm2d)]
    if frozen:
        paths = key_paths(OmegaConf.to_container(cfg.model), "model.")
        key = next((path for path in paths if path.endswith(".freeze_at")), "freeze_at")
        raise ConfigError(
            f"train.init_checkpoint is empty and {len(frozen)} layers are frozen "
            f"({and_more(frozen)}): they would stay random. Set {key}=0 and a norm that is not "
            "FrozenBN, or give weights. Set train.allow_frozen_random=True if this is meant."
        )


def _train_loader(cfg: DictConfig, settings: CfgNode) -> Iterable:
    """Build the loader of the training data, once every image file is known to be there.

    A loader whose dataset is not of Detectron2's ``get_detection_dataset_dicts`` is not checked:
    it need not read files. One that is not Detectron2's, or has options of its own, is built as it
    says; Detectron2's own becomes a stream that a resumed run can enter where it stopped.
    """
    node = cfg.dataloader.train
    if target_of(node.get("dataset")) is get_detection_dataset_dicts:
        node.dataset._target_ = partial(_dicts_with_images, settings)
    if target_of(node) is not build_detection_train_loader:
        return instantiate(node)
    dicts = instantiate(node.dataset)
    if "mapper" in node:
        _set_mask_format(node.mapper, dicts)
    plain = {"_target_", "dataset", "mapper", "total_batch_size", "aspect_ratio_grouping"}
    if set(node) - plain - {"num_workers"}:
        others = {k: instantiate(v) for k, v in node.items() if k not in ("_target_", "dataset")}
        return build_detection_train_loader(dicts, **others)
    return stream_of(
        dicts,
        instantiate(node.mapper),
        partial(TrainingSampler, len(dicts)),
        images_per_step=node.total_batch_size,
        batch_size=images_per_micro_batch(settings, comm.get_world_size()),
        aspect_ratio_grouping=node.get("aspect_ratio_grouping", True),
        num_workers=node.get("num_workers", 0),
        pin_memory=settings.MODEL.DEVICE.startswith("cuda"),
    )


def _set_mask_format(mapper: DictConfig, dicts: object) -> None:
    """Let Detectron2's mapper, or one that derives from it, read RLE masks, as with a YAML."""
    target = target_of(mapper)
    of_detectron2 = isinstance(target, type) and issubclass(target, DatasetMapper)
    if not of_detectron2 or not isinstance(dicts, list):
        return
    polygons = mapper.get("instance_mask_format", "polygon") == "polygon"
    key = "dataloader.train.mapper.instance_mask_format"
    if mapper.get("use_instance_mask") and polygons and needs_bitmasks(dicts, key):
        mapper.instance_mask_format = "bitmask"


def _dicts_with_images(settings: CfgNode, names: str | list[str], **kwargs: Any) -> list[dict]:
    dicts = get_detection_dataset_dicts(names, **kwargs)
    check_images(dicts, f"dataloader.train.dataset.names {names}", settings)
    return dicts


def _evaluate(cfg: DictConfig, settings: CfgNode, model: nn.Module) -> dict | None:
    if "evaluator" not in cfg.dataloader:
        return None
    if target_of(cfg.dataloader.evaluator) is build_evaluator:
        # where the config has none, it follows what the model returns
        cfg.dataloader.evaluator.max_detections = max_detections(settings)
    loader = inference_bar(instantiate(cfg.dataloader.test), "test")
    with autocast(settings):
        results = inference_on_dataset(model, loader, instantiate(cfg.dataloader.evaluator))
    if comm.is_main_process():
        print_csv_format(results)
    return results
