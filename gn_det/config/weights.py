"""Whether a config describes the network that its weights were trained in."""

from collections.abc import Iterator
from dataclasses import dataclass

from detectron2.config import CfgNode

from .known_weights import KnownWeights

__all__ = ["FPN_BACKBONES", "GROUPED", "RESNETS", "Problem", "check_weights"]

GROUPED = ("GN", "LN", "IN")
FPN_BACKBONES = ("build_gn_resnet_fpn_backbone", "build_resnet_fpn_backbone")
RESNETS = (*FPN_BACKBONES, "build_gn_resnet_backbone", "build_resnet_backbone")

# Mean or std of a channel: further apart than this is another preprocessing, closer than that is
# the same. Between them lie Detectron's two means for one data set (102.98 and 103.53).
_OTHER, _SAME = 1.0, 0.01


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a config.

    Attributes:
        fatal: it must not be trained so; otherwise a warning.
        message: the keys, what is wrong, and what to do.
    """

    fatal: bool
    message: str


def check_weights(cfg: CfgNode, known: KnownWeights, weights: str = "") -> list[Problem]:
    """Return where a config differs from the network that the weights were trained in.

    Args:
        cfg: a config with gn_det's keys. One whose backbone is no ResNet is not checked.
        known: what is known of the weights; what is None is not checked.
        weights: what to call them, in place of ``MODEL.WEIGHTS ...``.
    """
    if cfg.MODEL.BACKBONE.NAME not in RESNETS:
        return []
    weights = weights or f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS}"
    checks = (_depth, _norm, _groups, _weight_standardization, _stride, _pixels)
    return [problem for check in checks for problem in check(cfg, known, weights)]


def _depth(cfg: CfgNode, known: KnownWeights, weights: str) -> Iterator[Problem]:
    depth = cfg.MODEL.RESNETS.DEPTH
    if known.depth not in (None, depth):
        yield Problem(
            True, f"{weights} is a ResNet-{known.depth}, but MODEL.RESNETS.DEPTH is {depth}."
        )


def _norm(cfg: CfgNode, known: KnownWeights, weights: str) -> Iterator[Problem]:
    norm = cfg.MODEL.RESNETS.NORM
    if known.norm == "GN" and norm != "GN":
        yield Problem(
            True,
            f"{weights} was trained with GN, but MODEL.RESNETS.NORM is {norm!r}: its convolutions "
            "expect normalized features. Set MODEL.RESNETS.NORM GN.",
        )
    if known.norm in ("BN", "FrozenBN") and norm in (*GROUPED, ""):
        yield Problem(
            True,
            f"{weights} was trained with BN, but MODEL.RESNETS.NORM is {norm!r}: scale and offset "
            "would be read into another norm and mean nothing there. Use the R-50-GN or R-101-GN "
            "weights, or MODEL.RESNETS.NORM FrozenBN.",
        )
    if known.norm == "FrozenBN" and norm in ("BN", "SyncBN"):
        yield Problem(
            True,
            f"{weights} holds BN folded into scale and offset, without its statistics, but "
            f"MODEL.RESNETS.NORM is {norm!r}. Set MODEL.RESNETS.NORM FrozenBN.",
        )


def _groups(cfg: CfgNode, known: KnownWeights, weights: str) -> Iterator[Problem]:
    if known.num_groups is None or cfg.MODEL.RESNETS.NORM != "GN":
        return
    gn, trained = cfg.MODEL.GN, f"{weights} was trained with {known.num_groups} groups"
    if gn.CHANNELS_PER_GROUP:
        yield Problem(
            True,
            f"{trained}, but MODEL.GN.CHANNELS_PER_GROUP is {gn.CHANNELS_PER_GROUP}. Set it to 0.",
        )
    elif known.num_groups != gn.NUM_GROUPS:
        yield Problem(True, f"{trained}, but MODEL.GN.NUM_GROUPS is {gn.NUM_GROUPS}.")


def _weight_standardization(cfg: CfgNode, known: KnownWeights, weights: str) -> Iterator[Problem]:
    have, want = cfg.MODEL.GN.WEIGHT_STANDARDIZATION, known.weight_standardization
    if want not in (None, have):
        yield Problem(
            True,
            f"{weights} was trained {'with' if want else 'without'} Weight Standardization, but "
            f"MODEL.GN.WEIGHT_STANDARDIZATION is {have}. Set it to {want}.",
        )


def _stride(cfg: CfgNode, known: KnownWeights, weights: str) -> Iterator[Problem]:
    stride_in_1x1 = cfg.MODEL.RESNETS.STRIDE_IN_1X1
    if cfg.MODEL.RESNETS.DEPTH >= 50 and known.stride_in_1x1 not in (None, stride_in_1x1):
        yield Problem(
            True,
            f"{weights} has the stride on the {'1x1' if known.stride_in_1x1 else '3x3'} "
            f"convolution, but MODEL.RESNETS.STRIDE_IN_1X1 is {stride_in_1x1}. "
            f"Set it to {known.stride_in_1x1}.",
        )


def _pixels(cfg: CfgNode, known: KnownWeights, weights: str) -> Iterator[Problem]:
    wanted = {
        "MODEL.PIXEL_MEAN": (cfg.MODEL.PIXEL_MEAN, known.pixel_mean),
        "MODEL.PIXEL_STD": (cfg.MODEL.PIXEL_STD, known.pixel_std),
    }
    for key, (have, want) in wanted.items():
        if want is None:
            continue
        apart = max(abs(a - b) for a, b in zip(have, want))
        if apart > _SAME:
            yield Problem(
                apart > _OTHER,
                f"{weights} was trained with {key} {list(want)}, but it is {list(have)}.",
            )
    if known.input_format not in (None, cfg.INPUT.FORMAT):
        yield Problem(
            True,
            f"{weights} was trained on {known.input_format} images, but INPUT.FORMAT is "
            f"{cfg.INPUT.FORMAT}.",
        )
