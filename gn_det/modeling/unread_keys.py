"""Keys that a user sets, and that nothing reads: a head that is off, another sampler or schedule.

Only what a command line or the config file itself sets is warned of. A ``_BASE_`` has keys for many
models.
"""

from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

from gn_det.config import Problem, flatten, get_cfg, given_keys
from gn_det.utils import and_more

from .inspect import ModelLook

__all__ = ["unread_keys"]

# keys of MODEL that are read elsewhere than where the model is built
READ_ELSEWHERE = {
    "MODEL.DEVICE",
    "MODEL.KEYPOINT_ON",
    "MODEL.LOAD_PROPOSALS",
    "MODEL.MASK_ON",
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE",
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE",
    "MODEL.WEIGHTS",
}
# the beginning of a key -> the key and the values with which it is read
READ_WITH: dict[str, tuple[str, tuple[Any, ...]]] = {
    "DATALOADER.REPEAT_": (
        "DATALOADER.SAMPLER_TRAIN",
        ("RepeatFactorTrainingSampler", "WeightedCategoryTrainingSampler"),
    ),
    "DATASETS.PRECOMPUTED_PROPOSAL_": ("MODEL.LOAD_PROPOSALS", (True,)),
    "DATASETS.PROPOSAL_FILES_": ("MODEL.LOAD_PROPOSALS", (True,)),
    "INPUT.CROP.": ("INPUT.CROP.ENABLED", (True,)),
    "INPUT.MASK_FORMAT": ("MODEL.MASK_ON", (True,)),
    "SOLVER.BASE_LR_END": ("SOLVER.LR_SCHEDULER_NAME", ("WarmupCosineLR",)),
    "SOLVER.CLIP_GRADIENTS.": ("SOLVER.CLIP_GRADIENTS.ENABLED", (True,)),
    "SOLVER.GAMMA": (
        "SOLVER.LR_SCHEDULER_NAME",
        ("WarmupMultiStepLR", "WarmupStepWithFixedGammaLR"),
    ),
    "SOLVER.NUM_DECAYS": ("SOLVER.LR_SCHEDULER_NAME", ("WarmupStepWithFixedGammaLR",)),
    "SOLVER.STEPS": ("SOLVER.LR_SCHEDULER_NAME", ("WarmupMultiStepLR",)),
    "TEST.AUG.": ("TEST.AUG.ENABLED", (True,)),
    "TEST.KEYPOINT_OKS_SIGMAS": ("MODEL.KEYPOINT_ON", (True,)),
    "TEST.PRECISE_BN.": ("TEST.PRECISE_BN.ENABLED", (True,)),
}


def unread_keys(look: ModelLook, cfg: CfgNode) -> Iterator[Problem]:
    """Yield the keys that are set, other than by default, and that nothing reads.

    Args:
        look: The look at the config's model.
        cfg: The config as it was given.
    """
    values, defaults = dict(flatten(cfg)), dict(flatten(get_cfg()))
    unread: dict[str, list[str]] = {}
    for key in sorted(given_keys(cfg) & values.keys() & defaults.keys()):
        value = _with_tuples(values[key])
        is_set = value not in (_with_tuples(defaults[key]), ())
        if is_set and (reason := _why_unread(key, look, values)):
            unread.setdefault(reason, []).append(f"{key} {values[key]}")
    for reason, keys in unread.items():
        verb = "has" if len(keys) == 1 else "have"
        yield Problem(False, f"{and_more(keys, shown=3)} {verb} no effect: {reason}")


def _with_tuples(value: Any) -> Any:
    """Return a value with its lists as tuples: a file has lists where a default has tuples."""
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value


def _why_unread(key: str, look: ModelLook, values: dict[str, Any]) -> str | None:
    if key == "GLOBAL.HACK":
        return "Detectron2 and gn_det do not read that."
    if key.startswith("PRETRAIN."):
        classifier = values["MODEL.META_ARCHITECTURE"] == "ImageClassifier"
        return None if classifier else "`gn-det pretrain` alone reads that."
    # MODEL.GN and MODEL.CHANNELS_LAST: ignored_keys.py asks each part
    of_model = key.startswith("MODEL.") and not key.startswith(("MODEL.GN.", "MODEL.CHANNELS_LAST"))
    if of_model and key not in look.read and key not in READ_ELSEWHERE:
        return "no part of this model reads that."
    if key == "TEST.PRECISE_BN.ENABLED" and values[key]:
        has_bn = any(norm.has_statistics for norm in look.norms.values())
        return None if has_bn else "no norm of this model updates statistics."
    for start, (other, needed) in READ_WITH.items():
        if key.startswith(start) and key != other and values[other] not in needed:
            return f"that is read with {other} {' or '.join(map(str, needed))} alone."
    return None
