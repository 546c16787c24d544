"""The recipe of pre-training as the solver's keys: epochs to iterations, the linear learning rate.

ImageNet has 1,281,167 training images. In batches of 256 an epoch is 5,004 iterations, so that the
paper's 100 epochs with steps at 30, 60 and 90 are 500,400 iterations with steps at 150,120, 300,240
and 450,360. In batches of 64 an epoch is 20,018 iterations, and the learning rate 0.1 is 0.025.
"""

import logging
from typing import Any

from detectron2.config import CfgNode

from gn_det.config import ConfigError, flatten, get_cfg

__all__ = ["iterations_per_epoch", "scheduled", "warn_of_schedule"]

logger = logging.getLogger(__name__)

# keys in iterations, and the keys to set in their place
IN_EPOCHS = {
    "SOLVER.MAX_ITER": "PRETRAIN.EPOCHS",
    "SOLVER.STEPS": "PRETRAIN.STEPS",
    "TEST.EVAL_PERIOD": "PRETRAIN.EVAL_PERIOD",
}
FEW = 50  # iterations per epoch, below which a warning says so


def iterations_per_epoch(cfg: CfgNode, num_images: int) -> int:
    """Return the number of full batches in an epoch; what is left goes to the next one.

    Args:
        cfg: A config with ``SOLVER.IMS_PER_BATCH``.
        num_images: The number of training images.
    """
    return max(1, num_images // cfg.SOLVER.IMS_PER_BATCH)


def scheduled(cfg: CfgNode, num_images: int) -> CfgNode:
    """Return a copy with the learning rate, length, steps and periods of a run, in iterations.

    ``cfg`` itself stays the recipe: saved and read again, it gives the same run.

    Args:
        cfg: A finished config with gn_det's keys.
        num_images: The number of training images.

    Raises:
        ConfigError: A schedule in iterations is set beside the one in epochs, or a value is out of
            its range.
    """
    _check(cfg)
    p, epoch = cfg.PRETRAIN, iterations_per_epoch(cfg, num_images)
    factor = cfg.SOLVER.IMS_PER_BATCH / p.REFERENCE_BATCH
    run = cfg.clone()
    run.defrost()
    run.SOLVER.BASE_LR = cfg.SOLVER.BASE_LR * factor
    run.SOLVER.BASE_LR_END = cfg.SOLVER.BASE_LR_END * factor
    run.SOLVER.MAX_ITER = p.EPOCHS * epoch
    run.SOLVER.STEPS = tuple(step * epoch for step in p.STEPS if step < p.EPOCHS)
    run.TEST.EVAL_PERIOD = p.EVAL_PERIOD * epoch
    run.SOLVER.BEST_METRIC = ""  # keeps no best checkpoint
    if "SOLVER.CHECKPOINT_PERIOD" not in _changed(cfg):
        run.SOLVER.CHECKPOINT_PERIOD = run.TEST.EVAL_PERIOD
    return run


def warn_of_schedule(cfg: CfgNode, num_images: int) -> None:
    """Warn of a recipe that never lowers the learning rate, or has few steps per epoch.

    Args:
        cfg: A finished config with gn_det's keys.
        num_images: The number of training images.
    """
    p, epoch = cfg.PRETRAIN, iterations_per_epoch(cfg, num_images)
    if p.STEPS and min(p.STEPS) >= p.EPOCHS:
        logger.warning(
            f"The learning rate never falls: PRETRAIN.EPOCHS is {p.EPOCHS}, and the first of "
            f"PRETRAIN.STEPS {tuple(p.STEPS)} is not before that. The paper's are 30, 60 and 90 of "
            "100 epochs."
        )
    if epoch < FEW:
        logger.warning(
            f"An epoch of {num_images:,} images has {epoch} steps of SOLVER.IMS_PER_BATCH "
            f"{cfg.SOLVER.IMS_PER_BATCH}, and the run {p.EPOCHS * epoch:,}: few to learn from. A "
            "smaller batch gives more (the learning rate follows), and so do more PRETRAIN.EPOCHS."
        )


def _check(cfg: CfgNode) -> None:
    changed = _changed(cfg)
    for key, other_key in IN_EPOCHS.items():
        if key in changed:
            raise ConfigError(
                f"{key} {changed[key]}: pre-training is scheduled in epochs. Set {other_key}, "
                "and leave this key out."
            )
    if "SOLVER.BEST_METRIC" in changed:
        raise ConfigError(
            f"SOLVER.BEST_METRIC {cfg.SOLVER.BEST_METRIC}: pre-training keeps no best checkpoint. "
            "Leave this key out; PRETRAIN.EVAL_PERIOD and SOLVER.KEEP_CHECKPOINTS keep the latest."
        )
    for key in ("EPOCHS", "EVAL_PERIOD", "REFERENCE_BATCH"):
        if cfg.PRETRAIN[key] < 1:
            raise ConfigError(f"PRETRAIN.{key} is {cfg.PRETRAIN[key]}; it takes 1 or more.")


def _changed(cfg: CfgNode) -> dict[str, Any]:
    """Return the keys whose value is not the default, with the value."""
    defaults = dict(flatten(get_cfg()))
    return {key: value for key, value in flatten(cfg) if value != defaults.get(key)}
