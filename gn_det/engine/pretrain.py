"""Pre-training of a backbone by image classification, on Detectron2's engine."""

import argparse
import logging
import os
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_on_dataset,
    print_csv_format,
)
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from torch import nn

from gn_det.checkpoint import PretrainMetadata
from gn_det.config import ConfigError, config_folder, flatten
from gn_det.data import (
    LabelledSplit,
    build_eval_loader,
    build_train_loader,
    check_labelled_data,
    labelled_split,
)
from gn_det.engine.hooks.progress import inference_bar
from gn_det.engine.hooks.top1_error import TrainingError
from gn_det.evaluation import (
    ClassificationEvaluator,
    ResponsePercentiles,
    median_of_last,
    read_metrics,
)

from .evaluation_run import evaluate_only
from .precision import autocast
from .pretrain_schedule import scheduled, warn_of_schedule
from .setup import finish_setup, is_zoo_name, load_runnable_config
from .training_run import TrainingRun

__all__ = ["evaluate_classifier", "pretrain", "setup_pretraining", "train_classifier"]

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, float]]


def pretrain(args: argparse.Namespace) -> Results:
    """Train and evaluate a classifier, or only evaluate it, as a command line asks for.

    Args:
        args: The arguments of :func:`gn_det.engine.training_parser`.

    Returns:
        ``{"classification": {"top1_error": ..., "top5_error": ...}}`` in percent in the main
        process, and after a training ``top1_error_median`` of the last five evaluations.

    Raises:
        ConfigError, FileNotFoundError: Config, data or output folder cannot be used.
        WeightsError: The weights cannot be used, or lack a part of the model to evaluate.
    """
    cfg = setup_pretraining(args)
    if not args.eval_only:
        return train_classifier(cfg, resume=args.resume)
    evaluate = partial(evaluate_classifier, cfg)
    weights = cfg.MODEL.WEIGHTS
    datasets = {cfg.PRETRAIN.DATASET: _class_names(labelled_split(cfg, "val"))}
    results = evaluate_only(
        cfg, build_model(cfg), evaluate, weights, resume=args.resume, datasets=datasets
    )
    return results or {}


def _class_names(split: LabelledSplit) -> dict[str, list[str]]:
    """Return what a checkpoint holds: not as a detector's, whose classes are those of objects."""
    return {"classes": list(split.classes)} if split.classes else {}


def setup_pretraining(args: argparse.Namespace) -> CfgNode:
    """Do what :func:`gn_det.engine.setup` does for a detector.

    The names of the configs in ``configs/pretrain`` are known without their folder.

    Args:
        args: See :func:`pretrain`.

    Returns:
        The finished, frozen config.

    Raises:
        ConfigError, FileNotFoundError: See :func:`pretrain`.
    """
    cfg = load_runnable_config(_find(args.config_file), args.opts)
    if cfg.MODEL.META_ARCHITECTURE != "ImageClassifier":
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}: pre-training trains "
            "an ImageClassifier (configs/pretrain); detectors are trained by gn-det train."
        )
    return finish_setup(cfg, args, check_data=check_labelled_data)


def _find(config_file: str) -> str:
    ours = config_folder() / "pretrain" / os.path.basename(config_file)
    return str(ours) if is_zoo_name(config_file) and ours.is_file() else config_file


def train_classifier(cfg: CfgNode, *, resume: bool = False) -> Results:
    """Train a classifier to the end; checkpoints and metrics go to ``OUTPUT_DIR``.

    Args:
        cfg: A config of :func:`setup_pretraining`.
        resume: Whether to resume the run in ``OUTPUT_DIR``, where there is one.

    Returns:
        See :func:`pretrain`.
    """
    images = labelled_split(cfg, "train")
    loader = build_train_loader(cfg, images)
    cfg_of_run = scheduled(cfg, len(images))
    model = build_model(cfg)
    if cfg.PRETRAIN.RESPONSE_PERCENTILES:
        ResponsePercentiles(model.backbone)  # refuses a network before it has trained an epoch

    def evaluate(model: nn.Module) -> Results:
        _share_statistics(model)
        return evaluate_classifier(cfg, model)

    optimizer = build_optimizer(cfg_of_run, model)
    scheduler = build_lr_scheduler(cfg_of_run, optimizer)
    run = TrainingRun(
        cfg_of_run,
        model,
        optimizer,
        scheduler,
        loader,
        evaluate,
        class_names=_class_names(images),
        values=dict(flatten(cfg)),
        config=cfg,
        length_key="PRETRAIN.EPOCHS",
        gn_det=PretrainMetadata(cfg),
    )
    training_error = TrainingError(model, cfg_of_run.TEST.EVAL_PERIOD)
    # before saving: a checkpoint has what was counted
    run.trainer.register_hooks(run.build_hooks(before_saving=[training_error]))
    run.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    if comm.is_main_process():
        warn_of_schedule(cfg, len(images))
        solver = cfg_of_run.SOLVER
        logger.info(
            f"{len(images):,} images, {solver.MAX_ITER:,} iterations, learning rate "
            f"{solver.BASE_LR:g}, steps at {solver.STEPS}"
        )
    results = run.train() or {}
    if comm.is_main_process():
        rows = read_metrics(os.path.join(cfg.OUTPUT_DIR, "metrics.json"))
        results["classification"]["top1_error_median"] = median_of_last(rows)
    return results


def _share_statistics(model: nn.Module) -> None:
    """Give all processes the running statistics of rank 0, which are saved."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def evaluate_classifier(cfg: CfgNode, model: nn.Module) -> Results:
    """Evaluate a classifier on val, in the config's precision.

    Args:
        cfg: A config of :func:`setup_pretraining`.
        model: The classifier, which may be wrapped.

    Returns:
        See :func:`pretrain`.
    """
    evaluators: list[DatasetEvaluator] = [ClassificationEvaluator()]
    if cfg.PRETRAIN.RESPONSE_PERCENTILES:
        classifier: Any = getattr(model, "module", model)
        evaluators.append(ResponsePercentiles(classifier.backbone))
    loader = build_eval_loader(cfg, labelled_split(cfg, "val"))
    with autocast(cfg):
        results = inference_on_dataset(
            model, inference_bar(loader, "val"), DatasetEvaluators(evaluators)
        )
    if comm.is_main_process():
        print_csv_format(results)
    return results
