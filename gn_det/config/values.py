"""Values of keys that cannot be, whatever the model is."""

import math
from collections.abc import Iterator
from importlib.util import find_spec

from detectron2.config import CfgNode
from PIL import Image

from .errors import Problem

__all__ = [
    "package_problems",
    "pixel_problems",
    "precision_problems",
    "solver_problems",
    "window_problem",
]

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
    elif (channels := _channels(cfg.INPUT.FORMAT)) not in (None, 1, len(mean)):
        yield Problem(
            True,
            f"INPUT.FORMAT {cfg.INPUT.FORMAT} has {channels} channels, but MODEL.PIXEL_MEAN is "
            f"{mean} and MODEL.PIXEL_STD {std}: each takes {channels} numbers. Grey images with "
            "one channel are INPUT.FORMAT L.",
        )
    if problem := window_problem(cfg.INPUT.WINDOW):
        yield Problem(True, problem)


def _channels(image_format: str | None) -> int | None:
    if image_format in ("BGR", "YUV-BT.601"):
        return 3
    try:
        return Image.getmodebands(image_format) if image_format else None
    except KeyError:  # it is no format
        return None


def window_problem(window: object) -> str | None:
    """Return what is wrong with a value of ``INPUT.WINDOW``; None where it is one.

    Args:
        window: The value.
    """
    form = (
        f"INPUT.WINDOW is {window!r}: it takes two values [low, high] that become 0 and 255, such "
        'as [0, 4095], or percentiles of each image, such as ["0.5%", "99.5%"].'
    )
    if not isinstance(window, list | tuple) or len(window) not in (0, 2):
        return form
    ends = []
    for end in window:
        percent = isinstance(end, str) and end.endswith("%")
        try:
            number = float(end[:-1]) if percent else math.nan if isinstance(end, str) else end + 0.0
        except (TypeError, ValueError):
            return form
        if isinstance(end, bool) or not math.isfinite(number):
            return form
        if percent and not 0 <= number <= 100:
            return f"{form} {end} is no percentage."
        ends.append((percent, number))
    if len({percent for percent, _ in ends}) == 1 and not ends[0][1] < ends[1][1]:
        return f"{form} The first has to be below the second."
    return None


def package_problems(cfg: CfgNode) -> Iterator[Problem]:
    """Yield the packages that a training needs for a key, and that are not installed.

    Args:
        cfg: A finished config with gn_det's keys.
    """
    if cfg.INPUT.CROP.ENABLED and cfg.MODEL.MASK_ON and find_spec("shapely") is None:
        yield Problem(
            True,
            "Random crops (INPUT.CROP.ENABLED) cut polygons with the package shapely, which is not "
            "installed. Install it: pip install shapely",
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
