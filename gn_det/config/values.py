"""Values of keys that cannot be, whatever the model is."""

from collections.abc import Iterator

from detectron2.config import CfgNode

from .errors import Problem

__all__ = ["pixel_problems", "precision_problems", "solver_problems"]

AMP_DTYPES = ("float16", "bfloat16")
ON_SAVE_ERROR = ("stop", "continue")


def pixel_problems(cfg: CfgNode) -> Iterator[Problem]:
    """Yield what is wrong with the mean and standard deviation of the images' channels.

    Args:
        cfg: A finished config with gn_det's keys.
    """
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    if not len(mean) == len(std) > 0:
        yield Problem(
            True,
            f"MODEL.PIXEL_MEAN is {mean} and MODEL.PIXEL_STD {std}: each takes one number for "
            "every channel of the images.",
        )


def precision_problems(cfg: CfgNode) -> Iterator[Problem]:
    """Yield what is wrong with the type of mixed precision.

    Args:
        cfg: A finished config with gn_det's keys.
    """
    amp = cfg.SOLVER.AMP
    if amp.DTYPE not in AMP_DTYPES:
        yield Problem(
            True, f"SOLVER.AMP.DTYPE is {amp.DTYPE!r}; known are {' and '.join(AMP_DTYPES)}."
        )
    elif amp.ENABLED and amp.DTYPE == "float16" and cfg.MODEL.DEVICE == "cpu":
        yield Problem(
            True,
            "SOLVER.AMP.DTYPE float16 is for GPUs, but MODEL.DEVICE is cpu. "
            "Set SOLVER.AMP.DTYPE bfloat16.",
        )


def solver_problems(cfg: CfgNode) -> Iterator[Problem]:
    """Yield what is wrong with gn_det's keys below ``SOLVER``, which training alone reads.

    Args:
        cfg: A finished config with gn_det's keys.
    """
    solver = cfg.SOLVER
    if solver.ON_SAVE_ERROR not in ON_SAVE_ERROR:
        yield Problem(
            True,
            f"SOLVER.ON_SAVE_ERROR is {solver.ON_SAVE_ERROR!r}; known are "
            f"{', '.join(ON_SAVE_ERROR)}.",
        )
    if solver.CHECKPOINT_PERIOD < 1:
        yield Problem(
            True,
            f"SOLVER.CHECKPOINT_PERIOD is {solver.CHECKPOINT_PERIOD}: at least 1 iteration; "
            "with more than SOLVER.MAX_ITER only the end is saved.",
        )
    if solver.KEEP_CHECKPOINTS < 0:
        yield Problem(
            True, f"SOLVER.KEEP_CHECKPOINTS is {solver.KEEP_CHECKPOINTS}: a number, or 0 for all."
        )
    if not solver.CLIP_GLOBAL_NORM >= 0:
        yield Problem(
            True,
            f"SOLVER.CLIP_GLOBAL_NORM is {solver.CLIP_GLOBAL_NORM}: above 0, or 0 to clip "
            "nothing. A negative one would turn the gradient round.",
        )
    if not 0 <= solver.EMA_DECAY < 1:
        yield Problem(
            True,
            f"SOLVER.EMA_DECAY is {solver.EMA_DECAY}: at least 0 (no average) and below 1.",
        )
