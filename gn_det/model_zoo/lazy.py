"""Any of the YAML configs as a LazyConfig, in the form that Detectron2's users of it know."""

import torch
from detectron2.config import CfgNode, LazyCall
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from omegaconf import DictConfig

from gn_det.config import ConfigError
from gn_det.modeling.lazy import lazy_model, refuse_other

__all__ = ["lazy_config"]

# what has a lazy form, by key
KNOWN = {
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler",),
    "SOLVER.CLIP_GRADIENTS.ENABLED": (False,),
    "SOLVER.LR_SCHEDULER_NAME": (
        "WarmupMultiStepLR",
        "WarmupCosineLR",
        "WarmupStepWithFixedGammaLR",
    ),
    "TEST.AUG.ENABLED": (False,),
    "TEST.PRECISE_BN.ENABLED": (False,),
}


def lazy_config(cfg: CfgNode) -> DictConfig:
    """Return a config as a LazyConfig.

    Args:
        cfg: a finished config with gn_det's keys.

    Returns:
        ``model``, ``dataloader`` (``train``, ``test``, ``evaluator``), ``optimizer``,
        ``lr_multiplier`` and ``train``, as Detectron2's ``lazyconfig_train_net.py`` takes them.
        ``train`` has these keys besides Detectron2's: ``amp.dtype``, ``clip_global_norm``,
        ``ema_decay``, ``ims_per_step``, ``best_metric``, ``on_save_error``,
        ``allow_frozen_random``.

    Raises:
        gn_det.config.ConfigError: something in the config has no lazy form.
    """
    refuse_other(cfg, KNOWN)
    parts = {
        "model": lazy_model(cfg),
        "dataloader": _dataloader(cfg),
        "optimizer": _optimizer(cfg),
        "lr_multiplier": _lr_multiplier(cfg),
        "train": _train(cfg),
    }
    return DictConfig(parts, flags={"allow_objects": True})


def _dataloader(cfg: CfgNode) -> dict:
    if len(cfg.DATASETS.TEST) != 1:
        raise ConfigError(
            f"DATASETS.TEST is {cfg.DATASETS.TEST}: a LazyConfig evaluates one dataset. Name one."
        )
    workers = cfg.DATALOADER.NUM_WORKERS
    return {
        "train": LazyCall(build_detection_train_loader)(
            dataset=LazyCall(get_detection_dataset_dicts)(
                names=cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
            ),
            mapper=_mapper(cfg, is_train=True),
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
            num_workers=workers,
        ),
        "test": LazyCall(build_detection_test_loader)(
            dataset=LazyCall(get_detection_dataset_dicts)(
                names=cfg.DATASETS.TEST, filter_empty=False
            ),
            mapper=_mapper(cfg, is_train=False),
            num_workers=workers,
        ),
        # by its name: the evaluation stands above the model zoo
        "evaluator": LazyCall("gn_det.evaluation.build_evaluator")(
            dataset_name="${..test.dataset.names.0}",
            output_dir="${train.output_dir}/inference/${.dataset_name}",
        ),
    }


def _mapper(cfg: CfgNode, is_train: bool) -> DictConfig:
    crop = is_train and cfg.INPUT.CROP.ENABLED
    return LazyCall(DatasetMapper)(
        is_train=is_train,
        augmentations=_augmentations(cfg, is_train),
        image_format=cfg.INPUT.FORMAT,
        use_instance_mask=cfg.MODEL.MASK_ON,
        instance_mask_format=cfg.INPUT.MASK_FORMAT,
        recompute_boxes=crop and cfg.MODEL.MASK_ON,
    )


def _augmentations(cfg: CfgNode, is_train: bool) -> list[DictConfig]:
    size = cfg.INPUT
    if not is_train:
        return [
            LazyCall(T.ResizeShortestEdge)(
                short_edge_length=size.MIN_SIZE_TEST, max_size=size.MAX_SIZE_TEST
            )
        ]
    augmentations = [
        LazyCall(T.ResizeShortestEdge)(
            short_edge_length=size.MIN_SIZE_TRAIN,
            max_size=size.MAX_SIZE_TRAIN,
            sample_style=size.MIN_SIZE_TRAIN_SAMPLING,
        )
    ]
    if size.CROP.ENABLED:
        crop = LazyCall(T.RandomCrop)(crop_type=size.CROP.TYPE, crop_size=size.CROP.SIZE)
        augmentations.insert(0, crop)
    if size.RANDOM_FLIP != "none":
        flip = LazyCall(T.RandomFlip)(
            horizontal=size.RANDOM_FLIP == "horizontal", vertical=size.RANDOM_FLIP == "vertical"
        )
        augmentations.append(flip)
    return augmentations


def _optimizer(cfg: CfgNode) -> DictConfig:
    s = cfg.SOLVER
    return LazyCall(torch.optim.SGD)(
        # whoever trains sets params.model
        params=LazyCall(get_default_optimizer_params)(
            base_lr="${..lr}",
            weight_decay_norm=s.WEIGHT_DECAY_NORM,
            bias_lr_factor=s.BIAS_LR_FACTOR,
            weight_decay_bias=s.WEIGHT_DECAY_BIAS,
        ),
        lr=s.BASE_LR,
        momentum=s.MOMENTUM,
        nesterov=s.NESTEROV,
        weight_decay=s.WEIGHT_DECAY,
        foreach=True,
    )


def _lr_multiplier(cfg: CfgNode) -> DictConfig:
    s = cfg.SOLVER
    if s.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = [step for step in s.STEPS if step <= s.MAX_ITER]
        scheduler = LazyCall(MultiStepParamScheduler)(
            values=[s.GAMMA**k for k in range(len(steps) + 1)],
            milestones=steps,
            num_updates=s.MAX_ITER,
        )
    elif s.LR_SCHEDULER_NAME == "WarmupCosineLR":
        scheduler = LazyCall(CosineParamScheduler)(
            start_value=1, end_value=s.BASE_LR_END / s.BASE_LR
        )
    else:
        scheduler = LazyCall(StepWithFixedGammaParamScheduler)(
            base_value=1.0, num_decays=s.NUM_DECAYS, gamma=s.GAMMA, num_updates=s.MAX_ITER
        )
    return LazyCall(WarmupParamScheduler)(
        scheduler=scheduler,
        warmup_factor=s.WARMUP_FACTOR,
        warmup_length=min(s.WARMUP_ITERS / s.MAX_ITER, 1.0),
        warmup_method=s.WARMUP_METHOD,
        rescale_interval=s.RESCALE_INTERVAL,
    )


def _train(cfg: CfgNode) -> dict:
    return {
        "output_dir": cfg.OUTPUT_DIR,
        "init_checkpoint": cfg.MODEL.WEIGHTS,
        "max_iter": cfg.SOLVER.MAX_ITER,
        "amp": {"enabled": cfg.SOLVER.AMP.ENABLED, "dtype": cfg.SOLVER.AMP.DTYPE},
        "ddp": {
            "broadcast_buffers": False,
            "find_unused_parameters": False,
            "fp16_compression": False,
        },
        "checkpointer": {
            "period": cfg.SOLVER.CHECKPOINT_PERIOD,
            "max_to_keep": cfg.SOLVER.KEEP_CHECKPOINTS or None,
        },
        "eval_period": cfg.TEST.EVAL_PERIOD,
        "log_period": 20,
        "device": cfg.MODEL.DEVICE,
        "seed": cfg.SEED,
        "cudnn_benchmark": cfg.CUDNN_BENCHMARK,
        "clip_global_norm": cfg.SOLVER.CLIP_GLOBAL_NORM,
        "ema_decay": cfg.SOLVER.EMA_DECAY,
        "ims_per_step": cfg.SOLVER.IMS_PER_STEP,
        "best_metric": cfg.SOLVER.BEST_METRIC,
        "on_save_error": cfg.SOLVER.ON_SAVE_ERROR,
        "allow_frozen_random": cfg.MODEL.GN.ALLOW_FROZEN_RANDOM,
    }
