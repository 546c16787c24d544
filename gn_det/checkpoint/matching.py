"""Which weight goes to which parameter, and whether the two networks are the same kind.

A weight whose name lacks the modules in front goes to the parameter that ends with it, as in
Detectron2; where several weights do, the longest name counts. ``check_compatible`` then refuses
weights that the model would take without an error and compute something else with: BN's scale in
GN, other groups, another depth. It looks at the model itself, not at a config.
"""

import re
from collections.abc import Iterable

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from gn_det.modeling import StandardizedConv2d

from .converted_state import Converted, outer_modules, unwrapped
from .errors import WeightsError
from .report import Report

__all__ = ["check_compatible", "is_predictor", "match"]

_BACKBONE = re.compile(
    r"(?:^|\.)(?:(stem|res[2-5]\.\d+)\.(?:conv\d|shortcut)|(vgg[1-5]\.\d+))\.(?!norm\.)\w+$"
)
_STATISTICS = ("running_mean", "running_var")
# Layers whose size depends on the classes of a dataset: with another size they stay random.
_PREDICTORS = (
    ".cls_score.",
    ".bbox_pred.",
    "mask_head.predictor.",
    "linear.",
    "head.cls_subnet",
    "keypoint_head.score_lowres.",
)


def match(
    converted: Converted, model: nn.Module
) -> tuple[dict[str, torch.Tensor], dict[str, str], Report]:
    """Match weights to the parameters and buffers of a model, which is not changed.

    Args:
        converted: The weights.
        model: The model that they are for.

    Returns:
        The weights by parameter; the keys of ``converted.state`` by parameter; the report. A weight
        of another shape than its parameter is only in the second and in the report.
    """
    wanted = model.state_dict()
    keys = _match_names(list(wanted), converted)
    report = Report(converted.source, dropped=dict(converted.dropped))
    found = {}
    for name, parameter in wanted.items():
        key = keys.get(name)
        if key is None:
            # BN counts its steps; where the file has no count, it starts at 0
            if not name.endswith(".num_batches_tracked"):
                report.missing.append(name)
        elif converted.state[key].shape != parameter.shape:
            shapes = tuple(converted.state[key].shape), tuple(parameter.shape)
            report.shape_mismatch.append((name, *shapes))
        else:
            found[name] = converted.state[key]
            report.matched[name] = converted.name_in_file(key)
    used = set(keys.values())
    for key in converted.state:
        if key in used:
            continue
        if key.endswith(".num_batches_tracked"):
            report.dropped[converted.name_in_file(key)] = "count of training steps"
        elif key in ("linear.weight", "linear.bias"):
            report.dropped[converted.name_in_file(key)] = "ImageNet classifier"
        else:
            report.unused.append(converted.name_in_file(key))
    return found, keys, report


def _match_names(wanted: list[str], converted: Converted) -> dict[str, str]:
    """Return the keys of ``converted.state`` by parameter."""
    state, keys = converted.state, {}
    for prefix in outer_modules(state):
        if keys := {n: key for n in wanted if (key := prefix + unwrapped(n)) in state}:
            break
    if not converted.suffixes and keys:
        return keys
    taken = set(keys.values())
    by_key: dict[str, str] = {}
    for name in wanted:
        parts = unwrapped(name).split(".")
        for start in range(1, len(parts)):
            key = ".".join(parts[start:])
            if name not in keys and key in converted.state and key not in taken:
                # one weight for two parameters would be a guess: it stays unused
                by_key[key] = "" if key in by_key else name
                break
    keys.update({name: key for key, name in by_key.items() if name})
    return keys


def is_predictor(name: str) -> bool:
    """Return whether the size of the parameter ``name`` depends on the number of classes."""
    return any(part in f".{name}" for part in _PREDICTORS)


def check_compatible(
    converted: Converted,
    model: nn.Module,
    keys: dict[str, str],
    report: Report,
) -> None:
    """Check that norms and architecture of weights and model are the same.

    Args:
        converted: The weights.
        model: The model that is to be filled.
        keys: The keys of ``converted.state`` by parameter, see :func:`match`.
        report: The report of the same match.

    Raises:
        WeightsError: They are not. The message is one line.
    """
    if not keys:
        theirs, ours = list(converted.state)[:2], list(model.state_dict())[:2]
        raise WeightsError(
            f"No name in it fits the model. The file ({converted.source}) has names such as "
            f"{', '.join(theirs)}; the model {', '.join(ours)}. Give weights of the same network; "
            "docs/weights.md lists the projects whose names are understood."
        )
    _check_norms(converted, model, keys)
    _check_standardization(converted, model, keys)
    _check_blocks(converted, model, keys)
    for name, shape, wanted in report.shape_mismatch:
        if not is_predictor(name):
            hint = (
                " RetinaNet's p6 is made of p5 there and of res5 here, or the other way round; a "
                "Python config sets it by LastLevelP6P7(in_channels=..., in_feature=...)."
                if ".top_block.p6." in name
                else ""
            )
            raise WeightsError(
                f"It is of another network: {name} has the shape {shape} in the file and "
                f"{wanted} in the model.{hint}"
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
                f"Its norms do not fit: the model has a norm at {layer}, the file has none. Set "
                "the key NORM of that part as it was trained, or give other weights."
            )
        elif f"{layer}.norm.weight" not in wanted and f"{theirs}.norm.weight" in state:
            raise WeightsError(
                f"Its norms do not fit: the file has a norm at {layer}, the model has none. Set "
                "the key NORM of that part as it was trained, or give other weights."
            )


def _check_norm(
    converted: Converted,
    norm: nn.Module,
    layer: str,
    theirs: str,
    wanted: dict[str, torch.Tensor],
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
    if not isinstance(norm, nn.GroupNorm):
        return
    groups, channels = norm.num_groups, norm.num_channels // norm.num_groups
    if converted.known.num_groups not in (None, groups):
        raise WeightsError(
            f"Its norms do not fit: the file was trained with {converted.known.num_groups} groups, "
            f"the model has {groups} at {layer}."
        )
    if converted.known.channels_per_group not in (None, channels):
        raise WeightsError(
            "Its norms do not fit: the file was trained with "
            f"{converted.known.channels_per_group} channels per group, the model has {channels} at "
            f"{layer}."
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
                    f"It is of another network: the {place} has {name}, the {other} does not."
                )


def _num_blocks(names: Iterable[str]) -> dict[str, int]:
    blocks: dict[str, int] = {}
    for name in names:
        found = _BACKBONE.search(name)
        if found and _block(found) != "stem":
            stage, _, block = _block(found).partition(".")
            blocks[stage] = max(blocks.get(stage, 0), int(block) + 1)
    return blocks


def _block(found: re.Match[str]) -> str:
    """Return ``stem``, ``res4.0`` or ``vgg3.1``."""
    return found[1] or found[2]
