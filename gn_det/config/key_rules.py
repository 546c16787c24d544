"""What each key may hold: one table of sets and ranges, for Detectron2's keys and for ours.

Names that are registered, such as those of heads, are not here: building the model finds those.
What depends on several keys is in :mod:`gn_det.config.values`.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.solver.build import GradientClipType
from PIL import Image

from gn_det.utils import closest, shorten

from .cfg_node import get_cfg
from .errors import ConfigError, Problem
from .merge import as_type_of, flatten, kind_of

__all__ = ["RULES", "allow_value", "key_problems"]


class Rule(NamedTuple):
    """What a key may hold.

    Attributes:
        allows: A function that returns whether a value is allowed.
        words: What is allowed, as the end of "it takes ...".
        names: The names that are allowed, where there is such a set.
        is_open: Whether a trainer or a part of a user's own may know more names.
    """

    allows: Callable[[Any], bool]
    words: str
    names: tuple[str, ...] = ()
    is_open: bool = False


def _one_of(*names: str, is_open: bool = False) -> Rule:
    words = ", ".join(name or '""' for name in names)
    return Rule(lambda value: value in names, words, names, is_open)


def _from(low: float, meaning: str = "") -> Rule:
    return Rule(lambda x: _is_number(x) and x >= low, f"{low:g} or more{meaning}")


def _above(low: float) -> Rule:
    return Rule(lambda x: _is_number(x) and x > low, f"a number above {low:g}")


def _between(low: float, high: float) -> Rule:
    return Rule(lambda x: _is_number(x) and low <= x <= high, f"{low:g} to {high:g}")


def _below(high: float) -> Rule:
    return Rule(lambda x: _is_number(x) and 0 <= x < high, f"0 or more, and below {high:g}")


def _each(rule: Rule, count: int = 0) -> Rule:
    """Return the rule for a list whose items, or the items of whose lists, follow ``rule``."""

    def allows(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return all(map(allows, value))
        return rule.allows(value)

    number = f"{count} values" if count else "a list"
    return Rule(
        lambda value: (len(value) == count if count else len(value) > 0) and allows(value),
        f"{number}, each {rule.words}",
    )


def _or_empty(rule: Rule) -> Rule:
    return Rule(lambda value: len(value) == 0 or rule.allows(value), f"{rule.words}; or no value")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_device(value: str) -> bool:
    try:
        return torch.device(value) is not None
    except RuntimeError:
        return False


def _is_format(value: str) -> bool:
    try:
        return convert_PIL_to_numpy(Image.new("RGB", (1, 1)), value) is not None
    except ValueError:
        return False


_COUNT = _from(1)
_SIZE = _from(0)
_SHARE = _between(0, 1)
_ABOVE_0_OR_INF = Rule(lambda x: x > 0, "a number above 0")  # inf: no limit, and a kind of norm
_BOX_LOSS = _one_of("smooth_l1", "giou", "diou", "ciou", is_open=True)
_POOLER = _one_of("ROIAlign", "ROIAlignV2", "ROIPool", "ROIAlignRotated", "", is_open=True)
_COUNT_OR_INPUTS = Rule(
    lambda x: _is_number(x) and (x == -1 or x >= 1), "1 or more, or -1 for that of the input"
)
_BOX_WEIGHTS = Rule(
    lambda x: len(x) in (4, 5) and all(_is_number(w) and w > 0 for w in x),
    "4 numbers above 0, or 5 for rotated boxes",
)
_SCORE = Rule(lambda x: _is_number(x) and x <= 1, "1 or less (0 keeps all)")
_ITERATION = Rule(
    lambda x: _is_number(x) and x >= 1 and x == int(x), "a whole number of iterations, 1 or more"
)
_LABELS = _each(Rule(lambda x: x in (-1, 0, 1), "-1 (ignored), 0 or 1"))

RULES: dict[str, Rule] = {
    "VERSION": Rule(lambda x: x == 2, "2; older files say their version in the file"),
    "MODEL.DEVICE": Rule(_is_device, "cpu, cuda (a GPU), cuda:N or another device of PyTorch"),
    "MODEL.PIXEL_MEAN": _or_empty(_each(Rule(_is_number, "a number"))),
    "MODEL.PIXEL_STD": _or_empty(_each(_above(0))),
    "INPUT.MIN_SIZE_TRAIN": _each(_from(0, " (0 does not resize)")),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": _one_of("choice", "range"),
    "INPUT.MAX_SIZE_TRAIN": _COUNT,
    "INPUT.MIN_SIZE_TEST": _from(0, " (0 does not resize)"),
    "INPUT.MAX_SIZE_TEST": _COUNT,
    "INPUT.RANDOM_FLIP": _one_of("horizontal", "vertical", "none"),
    "INPUT.CROP.TYPE": _one_of("relative_range", "relative", "absolute", "absolute_range"),
    "INPUT.CROP.SIZE": _each(_above(0), 2),
    "INPUT.FORMAT": Rule(
        _is_format,
        "BGR, RGB, L, YUV-BT.601 or another mode of PIL",
        ("BGR", "RGB", "L"),
    ),
    "INPUT.MASK_FORMAT": _one_of("polygon", "bitmask"),
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": _COUNT,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": _COUNT,
    "DATALOADER.NUM_WORKERS": _from(0),
    "DATALOADER.SAMPLER_TRAIN": _one_of(
        "TrainingSampler",
        "RepeatFactorTrainingSampler",
        "RandomSubsetTrainingSampler",
        "WeightedTrainingSampler",
        "WeightedCategoryTrainingSampler",
        is_open=True,
    ),
    "DATALOADER.REPEAT_THRESHOLD": _SHARE,
    "MODEL.FPN.OUT_CHANNELS": _COUNT,
    "MODEL.FPN.FUSE_TYPE": _one_of("sum", "avg"),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": _SIZE,
    "MODEL.ANCHOR_GENERATOR.SIZES": _each(_above(0)),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": _each(_above(0)),
    "MODEL.ANCHOR_GENERATOR.OFFSET": _below(1),
    "MODEL.RPN.IOU_THRESHOLDS": _each(_SHARE),
    "MODEL.RPN.IOU_LABELS": _LABELS,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": _COUNT,
    "MODEL.RPN.POSITIVE_FRACTION": _SHARE,
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": _BOX_LOSS,
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": _SIZE,
    "MODEL.RPN.BBOX_REG_WEIGHTS": _BOX_WEIGHTS,
    "MODEL.RPN.CONV_DIMS": _or_empty(_each(_COUNT_OR_INPUTS)),
    "MODEL.RPN.SMOOTH_L1_BETA": _SIZE,
    "MODEL.RPN.LOSS_WEIGHT": _SIZE,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": _COUNT,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": _COUNT,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": _COUNT,
    "MODEL.RPN.POST_NMS_TOPK_TEST": _COUNT,
    "MODEL.RPN.NMS_THRESH": _SHARE,
    "MODEL.ROI_HEADS.NUM_CLASSES": _COUNT,
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": _each(_SHARE),
    "MODEL.ROI_HEADS.IOU_LABELS": _LABELS,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": _COUNT,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": _SHARE,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": _SCORE,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": _SHARE,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": _BOX_LOSS,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": _SIZE,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": _BOX_WEIGHTS,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": _SIZE,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": _COUNT,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": _SIZE,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": _POOLER,
    "MODEL.ROI_BOX_HEAD.NUM_FC": _SIZE,
    "MODEL.ROI_BOX_HEAD.FC_DIM": _COUNT,
    "MODEL.ROI_BOX_HEAD.NUM_CONV": _SIZE,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": _COUNT,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER": _SIZE,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": _COUNT,
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": _each(_SHARE),
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": _each(_above(0)),
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": _COUNT,
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": _SIZE,
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": _POOLER,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": _SIZE,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": _COUNT,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": _COUNT,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO": _SIZE,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": _POOLER,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": _each(_COUNT),
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": _COUNT,
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": _SIZE,
    "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT": _SIZE,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": _COUNT,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": _COUNT,
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": _COUNT,
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": _SIZE,
    "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT": _SIZE,
    "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH": _SHARE,
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": _SIZE,
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH": _SHARE,
    "MODEL.RETINANET.NUM_CLASSES": _COUNT,
    "MODEL.RETINANET.NUM_CONVS": _SIZE,
    "MODEL.RETINANET.IOU_THRESHOLDS": _each(_SHARE),
    "MODEL.RETINANET.IOU_LABELS": _LABELS,
    "MODEL.RETINANET.PRIOR_PROB": Rule(
        lambda x: _is_number(x) and 0 < x < 1, "a number between 0 and 1"
    ),
    "MODEL.RETINANET.SCORE_THRESH_TEST": _SCORE,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": _COUNT,
    "MODEL.RETINANET.NMS_THRESH_TEST": _SHARE,
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": _BOX_WEIGHTS,
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": _SIZE,
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": _SIZE,
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": _BOX_LOSS,
    "MODEL.RESNETS.NUM_GROUPS": _COUNT,
    "MODEL.RESNETS.WIDTH_PER_GROUP": _COUNT,
    "MODEL.RESNETS.RES5_DILATION": _between(1, 2),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": _COUNT,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": _COUNT,
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": _COUNT,
    "MODEL.GN.NUM_GROUPS": _COUNT,
    "MODEL.GN.CHANNELS_PER_GROUP": _from(0, " (0 goes by MODEL.GN.NUM_GROUPS)"),
    "MODEL.GN.EPS": _above(0),
    "MODEL.VGG.BASE_CHANNELS": _COUNT,
    "MODEL.CLASSIFIER.NUM_CLASSES": _COUNT,
    "PRETRAIN.CROP": _COUNT,
    "PRETRAIN.RESIZE": _SIZE,
    "PRETRAIN.CROP_AREA": Rule(
        lambda x: len(x) == 2 and all(map(_is_number, x)) and 0 < x[0] <= x[1] <= 1,
        "the smallest and the largest share of the area, above 0 and 1 at most",
    ),
    "PRETRAIN.COLOR_JITTER": _SIZE,
    "PRETRAIN.LIGHTING": _SIZE,
    "SOLVER.LR_SCHEDULER_NAME": _one_of(
        "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR", is_open=True
    ),
    "SOLVER.MAX_ITER": _COUNT,
    "SOLVER.BASE_LR": _SIZE,
    "SOLVER.BASE_LR_END": _SIZE,
    "SOLVER.MOMENTUM": _below(1),
    "SOLVER.WEIGHT_DECAY": _SIZE,
    "SOLVER.WEIGHT_DECAY_NORM": _SIZE,
    "SOLVER.WEIGHT_DECAY_BIAS": Rule(
        lambda x: x is None or (_is_number(x) and x >= 0), "0 or more, or None for WEIGHT_DECAY"
    ),
    "SOLVER.GAMMA": _above(0),
    "SOLVER.STEPS": _or_empty(_each(_ITERATION)),
    "SOLVER.NUM_DECAYS": _COUNT,
    "SOLVER.WARMUP_FACTOR": _SHARE,
    "SOLVER.WARMUP_ITERS": _SIZE,
    "SOLVER.WARMUP_METHOD": _one_of("linear", "constant"),
    "SOLVER.CHECKPOINT_PERIOD": _from(
        1, " iterations; with more than SOLVER.MAX_ITER only the end is saved"
    ),
    "SOLVER.IMS_PER_BATCH": _COUNT,
    "SOLVER.REFERENCE_WORLD_SIZE": _SIZE,
    "SOLVER.BIAS_LR_FACTOR": _SIZE,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": _one_of(
        *(kind.value for kind in GradientClipType), is_open=True
    ),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": _ABOVE_0_OR_INF,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": _ABOVE_0_OR_INF,
    "SOLVER.AMP.DTYPE": _one_of("float16", "bfloat16"),
    "SOLVER.CLIP_GLOBAL_NORM": Rule(lambda x: x >= 0, "0 or more (0 clips nothing)"),
    "SOLVER.EMA_DECAY": _below(1),
    "SOLVER.KEEP_CHECKPOINTS": _from(0, " (0 keeps all)"),
    "SOLVER.ON_SAVE_ERROR": _one_of("stop", "continue"),
    "TEST.EVAL_PERIOD": _from(0, " (0 evaluates at the end alone)"),
    "TEST.KEYPOINT_OKS_SIGMAS": _or_empty(_each(_above(0))),
    "TEST.DETECTIONS_PER_IMAGE": _COUNT,
    "TEST.AUG.MIN_SIZES": _each(_COUNT),
    "TEST.AUG.MAX_SIZE": _COUNT,
    "TEST.PRECISE_BN.NUM_ITER": _COUNT,
    "OUTPUT_DIR": Rule(bool, "a folder, such as ./output"),
    "SEED": Rule(
        lambda x: x < 2**32, "a number below 2^32; below 0, each run has a seed of its own"
    ),
    "VIS_PERIOD": _from(0, " (0 draws nothing)"),
    "FLOAT32_PRECISION": _one_of("", "highest", "high", "medium"),
}


def allow_value(key: str, value: str) -> None:
    """Say that code of your own obeys a value which Detectron2 does not know.

    Args:
        key: The key, such as ``"SOLVER.LR_SCHEDULER_NAME"``.
        value: The value, such as the name of the schedule that your trainer builds.

    Raises:
        ConfigError: The key has no set of values.
    """
    rule = RULES.get(key)
    if rule is None or not rule.is_open:
        raise ConfigError(f"{key} has no set of values that can be added to.", key)
    RULES[key] = Rule(
        lambda given: given == value or rule.allows(given),
        f"{rule.words}, {value}",
        (*rule.names, value),
        is_open=True,
    )


def key_problems(cfg: CfgNode, keys: Iterable[str] | None = None) -> Iterator[Problem]:
    """Yield the keys whose value has another type than the default, or is not allowed.

    Args:
        cfg: A finished config with gn_det's keys. Those of other projects are not judged.
        keys: The names of the keys to look at; default: all.
    """
    values, defaults = dict(flatten(cfg)), dict(flatten(get_cfg()))
    for key in defaults if keys is None else keys:
        if key in values and key in defaults:
            yield from _problem(key, values[key], defaults[key])


def _problem(key: str, value: Any, default: Any) -> Iterator[Problem]:
    rule = RULES.get(key)
    try:
        # code may set what a file or a command line cannot
        fitting = as_type_of(default, value, key)
    except ConfigError as error:
        yield Problem(True, str(error))
        return
    if type(fitting) is int and type(value) is float:
        yield Problem(True, f"{key} is {value}; it takes a whole number. Set {fitting}.")
    elif value is None and default is not None:
        takes = f"; it takes {rule.words if rule else kind_of(default)}"
        yield Problem(True, f"{key} is None{takes}. The default is {default!r}.")
    elif rule and not rule.allows(value):
        close = closest(str(value), rule.names)
        meant = f" Was {close[0]} meant?" if close else ""
        if rule.is_open:
            meant += f" (If code of yours takes it: gn_det.config.allow_value({key!r}, {value!r}).)"
        yield Problem(True, f"{key} is {shorten(repr(value))}; it takes {rule.words}.{meant}")
