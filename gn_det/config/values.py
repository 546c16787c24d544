"""Values that cannot be together, whatever the model is. Single keys: key_rules.py."""

from collections.abc import Iterator, Sequence

from detectron2.config import CfgNode

from .errors import Problem

__all__ = [
    "data_problems",
    "pixel_problems",
    "precision_problems",
    "proposal_problems",
    "solver_problems",
    "threshold_problems",
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
