"""Whether the model of a config fits weights, by what is known of how they were trained.

And which tensors weights have to fill, since training does not change them, or since all else
stands on them.
"""

import math
from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from torch import nn

from gn_det.config import Problem

from .inspect import meta_backbone
from .network import KEYS_OF, Network, network_of_cfg
from .norms import BN_NAMES, has_statistics, is_norm
from .pretrain_spec import PretrainSpec

__all__ = ["backbone_tensors", "check_weights", "frozen_tensors", "misfits"]

# Mean or std of a channel: further apart than this is another preprocessing, closer than that is
# the same. Between them lie Detectron's two means for one data set (102.98 and 103.53).
_OTHER, _SAME = 1.0, 0.01
_GREY = " Leave it as the weights need it: grey images are read as equal channels."


def check_weights(
    cfg: CfgNode, spec: PretrainSpec, weights: str = "", model: nn.Module | None = None
) -> list[Problem]:
    """Return what does not fit between a config's model and weights.

    Args:
        cfg: A config with gn_det's keys.
        spec: What is known of the weights; what is None is not checked.
        weights: The name of the weights in messages, in place of ``MODEL.WEIGHTS ...``.
        model: The model of ``cfg``; None builds its backbone. Where it has no ResNet or VGG, or
            cannot be built, the preprocessing alone is checked.
    """
    network = network_of_cfg(meta_backbone(cfg) if model is None else model, cfg)
    weights = weights or f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS}"
    if network is None:
        return list(_pixel_misfits(cfg, spec, weights))
    return list(misfits(network, cfg, spec, weights))


def misfits(network: Network, cfg: CfgNode, spec: PretrainSpec, weights: str) -> Iterator[Problem]:
    """Yield what does not fit between a network and weights.

    Args:
        network: The network in the model of ``cfg``.
        cfg: A config with gn_det's keys.
        spec: What is known of the weights; what is None is not checked.
        weights: The name of the weights in messages.
    """
    if spec.network not in (None, network.kind):
        yield Problem(
            True,
            f"{weights} is a {spec.network}, but MODEL.BACKBONE.NAME "
            f"{cfg.MODEL.BACKBONE.NAME} is a {network.kind}.",
        )
        return
    keys = f"MODEL.{KEYS_OF[network.kind]}"
    yield from _depth_misfits(network, spec, weights, keys)
    yield from _norm_misfits(network, spec, weights, f"{keys}.NORM")
    yield from _group_misfits(network, cfg, spec, weights)
    have, want = network.weight_standardization, spec.weight_standardization
    if want not in (None, have):
        yield Problem(
            True,
            f"{weights} was trained {'with' if want else 'without'} Weight Standardization, but "
            f"MODEL.GN.WEIGHT_STANDARDIZATION is {have}. Set it to {want}.",
        )
    in_1x1 = network.stride_in_1x1
    if in_1x1 is not None and spec.stride_in_1x1 not in (None, in_1x1):
        yield Problem(
            True,
            f"{weights} has the stride on the {'1x1' if spec.stride_in_1x1 else '3x3'} "
            f"convolution, but {keys}.STRIDE_IN_1X1 is {in_1x1}. Set it to {spec.stride_in_1x1}.",
        )
    yield from _pixel_misfits(cfg, spec, weights)


def _depth_misfits(
    network: Network, spec: PretrainSpec, weights: str, keys: str
) -> Iterator[Problem]:
    if network.depth is not None and spec.depth not in (None, network.depth):
        kind = spec.network or network.kind
        yield Problem(
            True, f"{weights} is a {kind}-{spec.depth}, but {keys}.DEPTH is {network.depth}."
        )


def _norm_misfits(
    network: Network, spec: PretrainSpec, weights: str, key: str
) -> Iterator[Problem]:
    norm, trained = network.norm, spec.norm
    if trained == "" and norm != "":
        yield Problem(
            True, f"{weights} was trained without a norm, but {key} is {norm!r}. Set {key} ''."
        )
    elif trained in ("BN", "FrozenBN") and norm not in BN_NAMES:
        others = "the R-50-GN or R-101-GN weights, or " if network.kind == "ResNet" else ""
        yield Problem(
            True,
            f"{weights} was trained with BN, but {key} is {norm!r}: scale and offset "
            f"would be read into another norm and mean nothing there. Use {others}{key} FrozenBN.",
        )
    elif trained == "FrozenBN" and norm != "FrozenBN":
        yield Problem(
            True,
            f"{weights} holds BN folded into scale and offset, without its statistics, but "
            f"{key} is {norm!r}. Set {key} FrozenBN.",
        )
    elif trained not in (None, "", "BN", "FrozenBN", norm):
        yield Problem(
            True,
            f"{weights} was trained with {trained}, but {key} is {norm!r}: its convolutions "
            f"expect normalized features. Set {key} {trained}.",
        )


def _group_misfits(
    network: Network, cfg: CfgNode, spec: PretrainSpec, weights: str
) -> Iterator[Problem]:
    if network.norm != "GN":
        return
    gn = cfg.MODEL.GN
    number = network.groups.get("num_groups", gn.NUM_GROUPS)
    size = network.groups.get("channels_per_group", gn.CHANNELS_PER_GROUP)
    if spec.channels_per_group not in (None, network.groups.get("channels_per_group")):
        yield Problem(
            True,
            f"{weights} was trained with {spec.channels_per_group} channels per group, but "
            f"MODEL.GN.CHANNELS_PER_GROUP is {size}.",
        )
    if spec.num_groups in (None, network.groups.get("num_groups")):
        return
    trained = f"{weights} was trained with {spec.num_groups} groups"
    if size:
        yield Problem(True, f"{trained}, but MODEL.GN.CHANNELS_PER_GROUP is {size}. Set it to 0.")
    else:
        yield Problem(True, f"{trained}, but MODEL.GN.NUM_GROUPS is {number}.")


def _pixel_misfits(cfg: CfgNode, spec: PretrainSpec, weights: str) -> Iterator[Problem]:
    wanted = {
        "MODEL.PIXEL_MEAN": (cfg.MODEL.PIXEL_MEAN, spec.pixel_mean),
        "MODEL.PIXEL_STD": (cfg.MODEL.PIXEL_STD, spec.pixel_std),
    }
    for key, (have, want) in wanted.items():
        if want is None or have is None:  # a Python config need not have it
            continue
        same = len(have) == len(want)
        apart = max(abs(a - b) for a, b in zip(have, want)) if same else math.inf
        if apart > _SAME:
            yield Problem(
                apart > _OTHER,
                f"{weights} was trained with {key} {list(want)}, but it is {list(have)}.",
            )
    if spec.window not in (None, (), tuple(cfg.INPUT.WINDOW)):
        yield Problem(
            False,
            f"{weights} was trained with INPUT.WINDOW {list(spec.window)}, but it is "
            f"{list(cfg.INPUT.WINDOW)}: the model sees other brightness than in its training.",
        )
    if cfg.INPUT.FORMAT is not None and spec.input_format not in (None, cfg.INPUT.FORMAT):
        yield Problem(
            True,
            f"{weights} was trained on {spec.input_format} images, but INPUT.FORMAT is "
            f"{cfg.INPUT.FORMAT}.{_GREY if cfg.INPUT.FORMAT == 'L' else ''}",
        )


def frozen_tensors(model: nn.Module) -> set[str]:
    """Return the names in the state dict of what training does not change.

    They are parameters that need no gradient, and the buffers of FrozenBN and other norms that
    update no statistics.

    Args:
        model: A model, on any device.
    """
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    for name, module in model.named_modules():
        if is_norm(module) and not has_statistics(module):
            prefix = f"{name}." if name else ""
            frozen |= {prefix + buffer for buffer, _ in module.named_buffers(recurse=False)}
    return frozen & set(model.state_dict())


def backbone_tensors(model: nn.Module) -> list[str]:
    """Return the names in the state dict of the backbones: of an FPN, those below it.

    Args:
        model: A model, on any device. Without a backbone of Detectron2's class the list is empty.
    """
    backbones = [name for name, m in model.named_modules() if isinstance(m, Backbone)]
    inner = [b for b in backbones if not any(_is_inside(other, b) for other in backbones)]
    return [
        name
        for name in model.state_dict()
        if any(_is_inside(name, b) for b in inner) and not name.endswith(".num_batches_tracked")
    ]


def _is_inside(name: str, module: str) -> bool:
    return name != module and (not module or name.startswith(f"{module}."))
