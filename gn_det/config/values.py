"""Values that cannot be together, whatever the model is. Single keys: key_rules.py."""

import math
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from detectron2.config import CfgNode
from PIL import Image

from .errors import Problem

__all__ = [
    "data_problems",
    "package_problems",
    "pixel_problems",
    "precision_problems",
    "proposal_problems",
    "solver_problems",
    "threshold_problems",
    "window_problem",
]

# Detectron2's samplers that read a key which its config does not have
SAMPLER_KEYS = {
    "RandomSubsetTrainingSampler": ("DATALOADER", "RANDOM_SUBSET_RATIO"),
    "WeightedTrainingSampler": ("DATASETS", "TRAIN_REPEAT_FACTOR"),
    "WeightedCategoryTrainingSampler": ("DATASETS", "TRAIN_REPEAT_FACTOR"),
}


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
        if isinstance(end, str) and not percent:
            return f"{form} {end!r} is text: write a number, such as 1000.0, or one with %."
        try:
            number = float(end[:-1]) if percent else end + 0.0
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


def threshold_problems(cfg: CfgNode) -> Iterator[Problem]:
    """Yield the lists of labels that do not fit their list of thresholds.

    Args:
        cfg: A finished config with gn_det's keys.
    """
    for name in ("RPN", "ROI_HEADS", "RETINANET"):
        thresholds, labels = cfg.MODEL[name].IOU_THRESHOLDS, cfg.MODEL[name].IOU_LABELS
        if len(labels) != len(thresholds) + 1 or list(thresholds) != sorted(thresholds):
            yield Problem(
                True,
                f"MODEL.{name}.IOU_LABELS is {labels} and IOU_THRESHOLDS {thresholds}: n "
                "thresholds, each not below the one before, take n + 1 labels.",
            )


def data_problems(cfg: CfgNode) -> Iterator[Problem]:
    """Yield what is wrong with the augmentation and the sampler of the training images.

    Args:
        cfg: A finished config with gn_det's keys.
    """
    sizes, crop = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(sizes) != 2:
        yield Problem(
            True,
            f"INPUT.MIN_SIZE_TRAIN is {sizes} and INPUT.MIN_SIZE_TRAIN_SAMPLING range: it takes "
            "the smallest and the largest size. Give two, or set choice.",
        )
    relative = crop.TYPE.startswith("relative")
    if crop.ENABLED and not all(x <= 1 if relative else type(x) is int for x in crop.SIZE):
        takes = "shares of the image, 1 at most" if relative else "whole numbers of pixels"
        yield Problem(
            True,
            f"INPUT.CROP.SIZE is {crop.SIZE}; with INPUT.CROP.TYPE {crop.TYPE} it takes {takes}.",
        )
    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    group, key = SAMPLER_KEYS.get(sampler, ("DATALOADER", "SAMPLER_TRAIN"))
    if key not in cfg[group]:
        yield Problem(
            True,
            f"DATALOADER.SAMPLER_TRAIN {sampler} reads {group}.{key}, which Detectron2's config "
            f"lacks. Add the key, cfg.{group}.{key} = ..., in a script of your own.",
        )


def proposal_problems(cfg: CfgNode, splits: Sequence[str]) -> Iterator[Problem]:
    """Yield what is missing for a model that takes proposals from files.

    Args:
        cfg: A finished config with gn_det's keys.
        splits: ``"TRAIN"``, ``"TEST"``, or both.
    """
    for split in splits if cfg.MODEL.LOAD_PROPOSALS else ():
        names, files = cfg.DATASETS[split], cfg.DATASETS[f"PROPOSAL_FILES_{split}"]
        if len(names) != len(files):
            yield Problem(
                True,
                f"MODEL.LOAD_PROPOSALS is True, DATASETS.{split} {names} and "
                f"DATASETS.PROPOSAL_FILES_{split} {files}: each dataset takes one file.",
            )
    from_files = cfg.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals"
    if from_files and not cfg.MODEL.LOAD_PROPOSALS:
        yield Problem(
            True,
            "MODEL.PROPOSAL_GENERATOR.NAME is PrecomputedProposals, but MODEL.LOAD_PROPOSALS is "
            "False. Set it to True, and DATASETS.PROPOSAL_FILES_TRAIN and _TEST.",
        )


def precision_problems(cfg: CfgNode) -> Iterator[Problem]:
    """Yield what is wrong with the type of mixed precision.

    Args:
        cfg: A finished config with gn_det's keys.
    """
    amp = cfg.SOLVER.AMP
    if amp.ENABLED and amp.DTYPE == "float16" and cfg.MODEL.DEVICE == "cpu":
        yield Problem(
            True,
            "SOLVER.AMP.DTYPE float16 is for GPUs, but MODEL.DEVICE is cpu. "
            "Set SOLVER.AMP.DTYPE bfloat16.",
        )


def solver_problems(cfg: CfgNode) -> Iterator[Problem]:
    """Yield what is wrong with the optimizer and the schedule, which training alone reads.

    Args:
        cfg: A finished config with gn_det's keys.
    """
    solver, name = cfg.SOLVER, cfg.SOLVER.LR_SCHEDULER_NAME
    if solver.NESTEROV and solver.MOMENTUM == 0:
        yield Problem(True, "SOLVER.NESTEROV is True and SOLVER.MOMENTUM 0: it needs a momentum.")
    steps = list(solver.STEPS)
    if name == "WarmupMultiStepLR":
        if any(step >= after for step, after in zip(steps, steps[1:])):
            yield Problem(
                True,
                f"SOLVER.STEPS is {solver.STEPS}: each step comes after the one before. In another "
                "order the learning rate would be wrong.",
            )
        elif len([step for step in steps if step <= solver.MAX_ITER]) >= solver.MAX_ITER:
            yield Problem(
                True,
                f"SOLVER.STEPS is {solver.STEPS} and SOLVER.MAX_ITER {solver.MAX_ITER}: there are "
                "fewer steps than iterations.",
            )
    elif name == "WarmupCosineLR" and not solver.BASE_LR_END <= solver.BASE_LR > 0:
        yield Problem(
            True,
            f"SOLVER.BASE_LR is {solver.BASE_LR} and SOLVER.BASE_LR_END {solver.BASE_LR_END}: "
            "WarmupCosineLR goes from the one down to the other, and BASE_LR is above 0.",
        )
    longest = max(solver.WARMUP_ITERS, solver.NUM_DECAYS)
    if name == "WarmupStepWithFixedGammaLR" and longest >= solver.MAX_ITER:
        yield Problem(
            True,
            f"SOLVER.MAX_ITER is {solver.MAX_ITER}: {name} needs more iterations than "
            f"SOLVER.WARMUP_ITERS {solver.WARMUP_ITERS} and SOLVER.NUM_DECAYS "
            f"{solver.NUM_DECAYS}.",
        )
