"""The recipe of pre-training in the solver's terms: epochs to iterations, the linear learning rate.

ImageNet has 1,281,167 training images. In batches of 256 an epoch is 5,004 iterations, so that the
paper's 100 epochs with steps at 30, 60 and 90 are 500,400 iterations with steps at 150,120, 300,240
and 450,360. In batches of 64 an epoch is 20,018 iterations, and the learning rate 0.1 is 0.025.
"""

from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_cfg

from gn_det.config import ConfigError

__all__ = ["iterations_per_epoch", "scheduled"]


def iterations_per_epoch(cfg: CfgNode, num_images: int) -> int:
    """Return the full batches in an epoch; what is left goes to the next one."""
    return max(1, num_images // cfg.SOLVER.IMS_PER_BATCH)


def scheduled(cfg: CfgNode, num_images: int) -> CfgNode:
    """Return a copy with the learning rate, length, steps and periods of a run, in iterations.

    ``cfg`` itself keeps the recipe: saved and read again, it gives the same run.

    Args:
        cfg: a finished config with gn_det's keys.
        num_images: of the training set.

    Raises:
        ConfigError: a schedule in iterations beside the one in epochs, or one that cannot be.
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
    run.TEST.EVAL_PERIOD = run.SOLVER.CHECKPOINT_PERIOD = p.EVAL_PERIOD * epoch
    return run


def _check(cfg: CfgNode) -> None:
    plain = detectron2_cfg().SOLVER
    for key in ("MAX_ITER", "STEPS"):
        if cfg.SOLVER[key] != plain[key]:
            raise ConfigError(
                f"SOLVER.{key} {cfg.SOLVER[key]}: pre-training is scheduled in epochs. Set "
                f"PRETRAIN.{'EPOCHS' if key == 'MAX_ITER' else 'STEPS'}, and leave this key out."
            )
    for key in ("EPOCHS", "EVAL_PERIOD", "REFERENCE_BATCH"):
        if cfg.PRETRAIN[key] < 1:
            raise ConfigError(f"PRETRAIN.{key} is {cfg.PRETRAIN[key]}; it takes 1 or more.")
