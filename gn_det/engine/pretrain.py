"""Pre-training of a backbone by image classification, on Detectron2's engine."""

import argparse
import os

import torch
from detectron2.config import CfgNode
from detectron2.engine import create_ddp_model, default_setup, hooks
from detectron2.evaluation import DatasetEvaluators, inference_on_dataset, print_csv_format
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm

from gn_det.checkpoint import Checkpointer, PretrainMetadata
from gn_det.config import ConfigError, check_config, config_folder
from gn_det.data import (
    build_eval_loader,
    build_train_loader,
    check_labelled_data,
    choose_seed,
    labelled_split,
)
from gn_det.engine.hooks.checkpoints import Checkpoints
from gn_det.engine.hooks.evaluation import Evaluation
from gn_det.engine.hooks.preemption import PreemptionHook
from gn_det.engine.hooks.progress import ProgressBar, in_terminal, inference_bar, quiet_inference
from gn_det.engine.hooks.training_error import TrainingError
from gn_det.evaluation import (
    ClassificationEvaluator,
    ResponsePercentiles,
    median_of_last,
    read_metrics,
)

from .grad_accum import build_grad_accum_trainer
from .load_to_evaluate import load_to_evaluate
from .precision import autocast
from .pretrain_schedule import scheduled, warn_of_schedule
from .results import record_evaluation
from .setup import (
    has_checkpoint,
    is_zoo_name,
    load_runnable_config,
    preserve_config_yaml,
    refuse_used_folder,
    write_to_log_file,
)
from .writers import build_writers, writing_period

__all__ = ["evaluate_classifier", "pretrain", "setup_pretraining", "train_classifier"]


def pretrain(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Train and evaluate, or only evaluate, what a command line asks for.

    Args:
        args: of :func:`gn_det.engine.argument_parser`, with ``resume`` and ``eval_only``.

    Returns:
        ``{"classification": {"top1_error": ..., "top5_error": ...}}`` in percent, and in the main
        process after training ``top1_error_median``: of the last five evaluations.

    Raises:
        ConfigError, FileNotFoundError: config, data or output folder are not as they must be.
        WeightsError: weights that leave a part of what is evaluated random.
    """
    cfg = setup_pretraining(args)
    if not args.eval_only:
        return train_classifier(cfg, resume=args.resume)
    model = build_model(cfg)
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, cfg=cfg)
    checkpoint = load_to_evaluate(checkpointer, cfg.MODEL.WEIGHTS, resume=args.resume)
    results = evaluate_classifier(cfg, model)
    if comm.is_main_process():
        record_evaluation(cfg.OUTPUT_DIR, results, checkpoint)
    return results


def setup_pretraining(args: argparse.Namespace) -> CfgNode:
    """Return the checked, frozen config; as :func:`gn_det.engine.setup` does for detection.

    The names of the configs in ``configs/pretrain`` are known without their folder.

    Raises:
        ConfigError, FileNotFoundError: see :func:`pretrain`.
    """
    cfg = load_runnable_config(_find(args.config_file), args.opts)
    training = not args.eval_only
    if cfg.MODEL.META_ARCHITECTURE != "ImageClassifier":
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}: this tool trains an "
            "ImageClassifier (configs/pretrain); detectors are trained by gn-det train."
        )
    check_config(
        cfg,
        training=training,
        num_processes=comm.get_world_size(),
        weights_loaded=args.resume and has_checkpoint(cfg.OUTPUT_DIR),
    )
    check_labelled_data(cfg, training=training)
    if training and not args.resume:
        refuse_used_folder(cfg.OUTPUT_DIR, "OUTPUT_DIR")
    cfg.freeze()
    # Detectron2 reads this file again to log it; a name is no path
    with preserve_config_yaml(cfg.OUTPUT_DIR, keep=not training):
        default_setup(cfg, argparse.Namespace(**{**vars(args), "config_file": ""}))
    write_to_log_file()
    return cfg


def _find(config_file: str) -> str:
    ours = config_folder() / "pretrain" / os.path.basename(config_file)
    return str(ours) if is_zoo_name(config_file) and ours.is_file() else config_file


def train_classifier(cfg: CfgNode, *, resume: bool = False) -> dict[str, dict[str, float]]:
    """Train ``cfg`` to the end; checkpoints and metrics go to ``OUTPUT_DIR``.

    Args:
        cfg: a checked config.
        resume: go on with the run in ``OUTPUT_DIR``.

    Returns:
        See :func:`pretrain`.
    """
    images = labelled_split(cfg, "train")
    loader = build_train_loader(cfg, images)
    cfg_of_run = scheduled(cfg, len(images))
    model = build_model(cfg)
    if cfg.PRETRAIN.RESPONSE_PERCENTILES:
        ResponsePercentiles(model.backbone)  # what it refuses is refused before an epoch
    optimizer = build_optimizer(cfg_of_run, model)
    device_ids = None if cfg.MODEL.DEVICE == "cpu" else [comm.get_local_rank()]
    model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
    trainer = build_grad_accum_trainer(cfg_of_run, model, loader, optimizer)
    trainer.seed = choose_seed(cfg.SEED)
    checkpointer = Checkpointer(
        model, cfg.OUTPUT_DIR, cfg=cfg, trainer=trainer, gn_det=PretrainMetadata(cfg)
    )
    results: dict[str, dict[str, float]] = {}

    max_iter, period = cfg_of_run.SOLVER.MAX_ITER, cfg_of_run.TEST.EVAL_PERIOD
    checkpoints = Checkpoints.from_cfg(cfg_of_run, checkpointer, trainer)
    leave = PreemptionHook(trainer, checkpoints)

    def evaluate() -> dict[str, dict[str, float]]:
        _share_statistics(model)
        with trainer.use_ema_weights(), leave.evaluating():
            results.update(evaluate_classifier(cfg, model))
        return results

    main = comm.is_main_process()
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=build_lr_scheduler(cfg_of_run, optimizer)),
            TrainingError(getattr(model, "module", model), period),
            checkpoints,
            leave,
            Evaluation(period, evaluate, cfg.OUTPUT_DIR),
            hooks.PeriodicWriter(build_writers(cfg.OUTPUT_DIR, max_iter), writing_period(period))
            if main
            else None,
            ProgressBar() if main and in_terminal() else None,
            hooks.CallbackHook(after_train=lambda trainer: leave.restore_handlers()),
        ]
    )
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    trainer.seek_data(start)
    if main:
        warn_of_schedule(cfg, len(images))
        print(
            f"{len(images):,} images, {max_iter:,} iterations, learning rate "
            f"{cfg_of_run.SOLVER.BASE_LR:g}, steps at {cfg_of_run.SOLVER.STEPS}"
        )
    trainer.train(start, max_iter)
    if main:
        rows = read_metrics(os.path.join(cfg.OUTPUT_DIR, "metrics.json"))
        results["classification"]["top1_error_median"] = median_of_last(rows)
    return results


def _share_statistics(model: torch.nn.Module) -> None:
    """Give all processes the first one's running statistics, which are saved."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def evaluate_classifier(cfg: CfgNode, model: torch.nn.Module) -> dict[str, dict[str, float]]:
    """Return the errors of ``model`` on val, in the config's precision."""
    evaluators = [ClassificationEvaluator()]
    if cfg.PRETRAIN.RESPONSE_PERCENTILES:
        evaluators.append(ResponsePercentiles(getattr(model, "module", model).backbone))
    loader = build_eval_loader(cfg, labelled_split(cfg, "val"))
    with autocast(cfg), quiet_inference():
        results = inference_on_dataset(
            model, inference_bar(loader, "val"), DatasetEvaluators(evaluators)
        )
    if comm.is_main_process():
        print_csv_format(results)
    return results
