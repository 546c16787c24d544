"""Refuses weights that a model would take without an error and compute something else with.

Everything here looks at the model itself, not at a config.
"""

import re

from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from gn_det.modeling import StandardizedConv2d

from .converted import Converted
from .errors import WeightsError
from .matching import Report, is_predictor

__all__ = ["check_compatible"]

_BACKBONE = re.compile(
    r"(?:^|\.)(?:(stem|res[2-5]\.\d+)\.(?:conv\d|shortcut)|(vgg[1-5]\.\d+))\.(?!norm\.)\w+$"
)
_STATISTICS = ("running_mean", "running_var")


def check_compatible(
    converted: Converted,
    model: nn.Module,
    keys: dict[str, str],
    report: Report,
    *,
    frozen_may_stay: bool = True,
) -> None:
    """Check the norms and the architecture.

    Args:
        converted: the weights.
        model: to be filled.
        keys: parameter of ``model`` -> key of ``converted.state``, see
            :func:`gn_det.checkpoint.matching.match`.
        report: of the same match.
        frozen_may_stay: whether a FrozenBN that the file has not may stay the identity.

    Raises:
        WeightsError: with the reason, one line.
    """
    if not keys:
        theirs, ours = list(converted.state)[:2], list(model.state_dict())[:2]
        raise WeightsError(
            f"No name in it fits the model. The file ({converted.source}) has names such as "
            f"{', '.join(theirs)}; the model {', '.join(ours)}."
        )
    _check_norms(converted, model, keys)
    _check_standardization(converted, model, keys)
    _check_blocks(converted, model, keys)
    if not frozen_may_stay:
        _check_frozen(model, keys)
    for name, theirs, ours in report.shape_mismatch:
        if not is_predictor(name):
            raise WeightsError(
                f"It is of another network: {name} has the shape {theirs} in the file and "
                f"{ours} in the model."
            )


def _check_norms(converted: Converted, model: nn.Module, keys: dict[str, str]) -> None:
    state, wanted = converted.state, model.state_dict()
    modules = dict(model.named_modules())
    for name, key in keys.items():
        layer, _, parameter = name.rpartition(".")
        theirs = key.rpartition(".")[0]
        if parameter != "weight":
            continue
        if layer.endswith(".norm"):
            _check_norm(converted, modules[layer], layer, theirs, wanted)
        elif f"{layer}.norm.weight" in wanted and f"{theirs}.norm.weight" not in state:
            raise WeightsError(
                f"Its norms do not fit: the model has a norm at {layer}, the file has none."
            )
        elif f"{layer}.norm.weight" not in wanted and f"{theirs}.norm.weight" in state:
            raise WeightsError(
                f"Its norms do not fit: the file has a norm at {layer}, the model has none."
            )


def _check_norm(
    converted: Converted, norm: nn.Module, layer: str, theirs: str, wanted: dict
) -> None:
    kind = type(norm).__name__
    has = f"{theirs}.{_STATISTICS[0]}" in converted.state
    wants = f"{layer}.{_STATISTICS[0]}" in wanted
    if has and not wants:
        raise WeightsError(
            f"Its norms do not fit: the file has BN (it has statistics), the model has {kind} at "
            f"{layer}, where BN's scale and offset mean nothing."
        )
    if wants and not has:
        raise WeightsError(
            f"Its norms do not fit: the file has GN or another norm without statistics, the model "
            f"has {kind} at {layer}, which would be no normalization at all."
        )
    if has and converted.known.norm == "FrozenBN" and not isinstance(norm, FrozenBatchNorm2d):
        raise WeightsError(
            "Its norms do not fit: the file has BN folded into scale and offset, without "
            f"statistics, and the model {kind} at {layer}. It is for FrozenBN alone."
        )
    groups = getattr(norm, "num_groups", None)
    if None not in (groups, converted.known.num_groups) and groups != converted.known.num_groups:
        raise WeightsError(
            f"Its norms do not fit: the file was trained with {converted.known.num_groups} groups, "
            f"the model has {groups} at {layer}."
        )
    per_group = converted.known.channels_per_group
    if None not in (groups, per_group) and norm.num_channels // groups != per_group:
        raise WeightsError(
            f"Its norms do not fit: the file was trained with {per_group} channels per group, the "
            f"model has {norm.num_channels // groups} at {layer}."
        )


def _check_frozen(model: nn.Module, keys: dict[str, str]) -> None:
    unfilled = [
        name
        for name, module in model.named_modules()
        if isinstance(module, FrozenBatchNorm2d) and f"{name}.weight" not in keys
    ]
    if unfilled:
        more = f" and {len(unfilled) - 1} more" if unfilled[1:] else ""
        raise WeightsError(
            f"It has nothing for {unfilled[0]}{more}, which is FrozenBN in the model: it would "
            "stay the identity, which is no normalization at all. Set its NORM to GN, or give "
            "weights that have it. Set MODEL.GN.ALLOW_FROZEN_RANDOM True (in a Python config "
            "train.allow_frozen_random) if this is meant."
        )


def _check_standardization(converted: Converted, model: nn.Module, keys: dict[str, str]) -> None:
    trained = converted.known.weight_standardization
    if trained is None:
        return
    modules = dict(model.named_modules())
    for name in keys:
        layer = name.rpartition(".")[0]
        if f"{layer}.norm.weight" in keys:
            has = isinstance(modules[layer], StandardizedConv2d)
            if has != trained:
                words = ("with", "without") if trained else ("without", "with")
                raise WeightsError(
                    f"It was trained {words[0]} Weight Standardization, and the model is built "
                    f"{words[1]} (MODEL.GN.WEIGHT_STANDARDIZATION)."
                )


def _check_blocks(converted: Converted, model: nn.Module, keys: dict[str, str]) -> None:
    """Refuse a network with more or fewer blocks or layers than the model's."""
    wanted = model.state_dict()
    if not any(_BACKBONE.search(name) for name in keys):
        return
    file_blocks, model_blocks = _num_blocks(converted.state), _num_blocks(wanted)
    for stage in sorted(set(file_blocks) & set(model_blocks)):
        theirs, ours = file_blocks[stage], model_blocks[stage]
        if theirs != ours:
            raise WeightsError(
                f"It is of another network: {stage} has {theirs} blocks in the file and {ours} in "
                f"the model (MODEL.{'VGG' if stage.startswith('vgg') else 'RESNETS'}.DEPTH)."
            )
    used = set(keys.values())
    # a stage may be left out on purpose, but not a layer of one that is there
    for place, names, taken in (("file", converted.state, used), ("model", wanted, keys)):
        stages = model_blocks if place == "file" else file_blocks
        for name in names:
            found = _BACKBONE.search(name)
            if found and name not in taken and _block(found).split(".")[0] in (*stages, "stem"):
                other = "model" if place == "file" else "file"
                raise WeightsError(
                    f"It is of another network: the {place} has {name}, the {other} has not."
                )


def _num_blocks(names: dict) -> dict[str, int]:
    blocks: dict[str, int] = {}
    for name in names:
        found = _BACKBONE.search(name)
        if found and _block(found) != "stem":
            stage, _, block = _block(found).partition(".")
            blocks[stage] = max(blocks.get(stage, 0), int(block) + 1)
    return blocks


def _block(found: re.Match) -> str:
    """Return ``stem``, ``res4.0`` or ``vgg3.1``."""
    return found[1] or found[2]
