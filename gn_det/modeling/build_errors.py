"""What keeps a model from being built, in terms of its config: key, cause and remedy."""

import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry
from torch import nn

from gn_det.config import ConfigError, Problem
from gn_det.utils import did_you_mean

from .inspect import BuildError, ModelLook, NormLayer, look_at
from .norms import NORMS, is_norm

__all__ = ["build_or_explain"]

_ONE_GROUP = {"MODEL.GN.NUM_GROUPS": 1, "MODEL.GN.CHANNELS_PER_GROUP": 0}


def build_or_explain(cfg: CfgNode) -> tuple[ModelLook | None, list[Problem]]:
    """Return the look at a config's model, and what keeps the model from being built.

    A norm that cannot be built is reported and left out, so that what else is wrong is found too.

    Args:
        cfg: A finished config with gn_det's keys.

    Returns:
        The look, None where there is no model; and the problems. With problems, the look is one at
        a model without the norms that they are about.
    """
    problems: list[Problem] = []
    changes: dict[str, Any] = {}
    while True:
        try:
            look = look_at(cfg, changes)
            return look, [*_channels_that_do_not_divide(look, cfg), *problems]
        except BuildError as error:
            key = _key_of_failing_norm(error)
            if key is None or error.read[key] == "":
                return None, [*problems, _explain(error) or _unexplained(error)]
            name = error.read[key]
            if isinstance(error.cause, KeyError) and name in NORMS and key not in changes:
                changes[key] = "LN"  # Detectron2 has no IN; which part ignores it is seen with LN
            elif name in NORMS and not _ONE_GROUP.items() <= changes.items():
                changes |= _ONE_GROUP
            else:
                problems.append(Problem(True, f"{key} is {name!r}, {_why_no_norm(error, name)}"))
                changes[key] = ""


def _why_no_norm(error: BuildError, name: str) -> str:
    if name not in NORMS:
        return f"which is not a norm; known are {', '.join(repr(n) for n in ('', *NORMS))}."
    for variables in _variables(error.cause):
        if {"num_groups", "num_channels"} <= variables.keys():
            groups, channels = variables["num_groups"], variables["num_channels"]
            return f"and its {groups} groups do not divide {channels} channels."
    return f"which cannot be built: {error.cause}"


def _channels_that_do_not_divide(look: ModelLook, cfg: CfgNode) -> Iterator[Problem]:
    gn = cfg.MODEL.GN
    set_by = "CHANNELS_PER_GROUP" if gn.CHANNELS_PER_GROUP else "NUM_GROUPS"
    by_name = [name for name, norm in NORMS.items() if norm.groups == {}]
    wrong = {
        layer.name
        for layer in look.norms.values()
        if layer.groups and NORMS["GN"].num_groups(layer.channels, gn) is None
    }
    for key, names in look.keys_of(wrong, by_name).items():
        layers = [layer for layer in look.norms.values() if layer.name in names]
        for channels in dict.fromkeys(layer.channels for layer in layers):
            layer = next(layer for layer in layers if layer.channels == channels)
            divisors = [str(d) for d in range(1, channels + 1) if channels % d == 0]
            place = layer.name.removesuffix(".norm")
            source = ", ".join(_channel_keys(look, key, layer))
            yield Problem(
                True,
                f"{key} is {look.read[key]}, and MODEL.GN.{set_by} {gn[set_by]} does not divide "
                f"the {channels} channels of {place}{f' ({source})' if source else ''}. "
                f"These do: {', '.join(divisors)}.",
            )


def _channel_keys(look: ModelLook, norm_key: str, layer: NormLayer) -> list[str]:
    """Return the keys beside ``norm_key`` that the number of the layer's channels depends on."""
    node = norm_key.rpartition(".")[0]
    found = []
    for key, value in look.read.items():
        beside = key.rpartition(".")[0] == node
        if beside and type(value) is int and value > 1 and layer.channels % value == 0:
            others = (look.with_changes({key: other}) for other in (2 * value, value // 2))
            other = next((other for other in others if other is not None), look)
            if other.norms[layer.name].channels != layer.channels:
                found.append(key)
    return found


def _explain(error: BuildError) -> Problem | None:
    """Return what is wrong with the config; None where no key is known to be the cause."""
    if isinstance(error.cause, ConfigError):
        return Problem(True, str(error.cause))
    ways: tuple[Callable[[BuildError], str | None], ...] = (
        _unregistered,
        _feature_that_is_not_made,
        _stage_that_there_is_not,
        _anchors_of_other_levels,
        _names_a_key,
        _error_of_detectron2,
        _value_that_gn_det_refuses,
        _value_without_entry,
    )
    messages = (way(error) for way in ways)
    return next((Problem(True, message) for message in messages if message), None)


def _unexplained(error: BuildError) -> Problem:
    cause = error.cause
    if _place(cause).startswith("gn_det."):
        raise cause  # a mistake of ours
    # not refused: another machine, or a process group, may be all that building needs
    text = str(cause) or _line(cause)
    last = ", ".join(list(error.read)[-3:])
    return Problem(
        False,
        "The model cannot be built here, and its norms and weights are not checked: "
        f"{type(cause).__name__}: {text} ({_place(cause)}; {last} were read last).",
    )


def _key_of_failing_norm(error: BuildError) -> str | None:
    """Return the key of the norm that could not be built; None for another error."""
    key = _last_norm_key(error)
    if key is None:
        return None
    name = error.read[key]
    makers = (variables.get("self") for variables in _variables(error.cause))
    in_norm = any(isinstance(maker, nn.Module) and is_norm(maker) for maker in makers)
    unknown = name not in NORMS and repr(name) in str(error.cause)
    unknown_to_detectron2 = isinstance(error.cause, KeyError) and error.cause.args == (name,)
    return key if in_norm or unknown or unknown_to_detectron2 else None


def _last_norm_key(error: BuildError) -> str | None:
    keys = [key for key in error.read if key.endswith((".NORM", "_NORM"))]
    return keys[-1] if keys else None


def _unregistered(error: BuildError) -> str | None:
    registry = next((v.get("self") for v in _variables(error.cause)), None)
    if not isinstance(registry, Registry) or not isinstance(error.cause, KeyError):
        return None
    known = [name for name, _ in registry]
    for key, value in reversed(error.read.items()):
        if isinstance(value, str) and value not in known and f"'{value}'" in str(error.cause):
            hint = did_you_mean(value, known).strip() or f"Known are {', '.join(known)}."
            return (
                f"{key} is {value!r}, which is not registered. {hint} (A module with one of your "
                "own has to be imported first.)"
            )
    return None


def _feature_that_is_not_made(error: BuildError) -> str | None:
    made = next(_features_asked(error.cause), None)
    if not isinstance(error.cause, KeyError) or made is None:
        return None
    for key, value in reversed(error.read.items()):
        if isinstance(value, list | tuple) and error.cause.args[0] in value:
            missing = ", ".join(str(name) for name in value if name not in made)
            source = [k for k, v in error.read.items() if "OUT_FEATURES" in k and list(v) == made]
            return (
                f"{key} has {missing}, but {(*source, 'the backbone')[0]} gives "
                f"{', '.join(made)} only."
            )
    return None


def _stage_that_there_is_not(error: BuildError) -> str | None:
    """Explain what Detectron2's ResNet asserts: that its ``out_features`` are among its stages."""
    name = next(_variables(error.cause), {}).get("out_feature")
    if isinstance(error.cause, AssertionError):
        for key, value in error.read.items():
            if key.endswith("OUT_FEATURES") and name in value:
                return f"{key} has {name}, which is no stage of the backbone, such as res2."
    return None


def _features_asked(error: BaseException) -> Iterator[list[str]]:
    """Yield the names of the features among which one was looked for in vain."""
    for variables in _variables(error):
        for value in variables.values():
            if isinstance(value, dict) and any(isinstance(v, ShapeSpec) for v in value.values()):
                yield list(value)


def _anchors_of_other_levels(error: BuildError) -> str | None:
    keys = list(error.read)
    levels = [key for key in keys if key.endswith("IN_FEATURES")]
    if not isinstance(error.cause, AssertionError) or not levels:
        return None
    if "ANCHOR_GENERATOR" not in keys[-1]:
        return None
    key, names = levels[-1], error.read[levels[-1]]
    for own in ("MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"):
        lists = error.read.get(own, [])
        # one list, or plain numbers, are for all levels
        if len(lists) > 1 and isinstance(lists[0], list | tuple) and len(lists) != len(names):
            return (
                f"{own} has {len(lists)} lists, one a level, but {key} has {len(names)} levels "
                f"({', '.join(names)})."
            )
    return None


def _names_a_key(error: BuildError) -> str | None:
    """Pass on what names a key by itself, as Detectron2's assertions do, with the key's value."""
    text = str(error.cause)
    values = [
        f"{key} is {error.read[key]!r}"
        for key in dict.fromkeys(re.findall(r"MODEL\.[A-Z0-9_.]*[A-Z0-9_]", text))
        if key in error.read
    ]
    return f"{text.rstrip('.')}. {', '.join(values)}." if values else None


def _error_of_detectron2(error: BuildError) -> str | None:
    cause, read = error.cause, list(error.read.items())
    by_values = isinstance(cause, AssertionError | AttributeError | TypeError | ValueError)
    if not by_values or not read or not _place(cause).startswith("detectron2."):
        return None
    text, (key, value) = str(cause).strip(), read[-1]
    if len(text) < 10:  # "assert len(xs) > 0, xs" says "[]"
        text = f"{text} {_line(cause)}".strip()
    return f"Detectron2 cannot build the model: {text} ({key} {value!r} was read last.)"


def _value_that_gn_det_refuses(error: BuildError) -> str | None:
    if not isinstance(error.cause, ValueError) or not _place(error.cause).startswith("gn_det."):
        return None
    key = _last_norm_key(error)
    if key is not None and error.read[key] in str(error.cause):
        return f"{key} is {error.read[key]}: {error.cause}"
    return str(error.cause)


def _value_without_entry(error: BuildError) -> str | None:
    if not isinstance(error.cause, KeyError) or len(error.cause.args) != 1:
        return None
    for key, value in reversed(error.read.items()):
        if type(value) is type(error.cause.args[0]) and value == error.cause.args[0]:
            return f"{key} is {value!r}, which {_place(error.cause)}, does not know."
    return None


def _variables(error: BaseException) -> Iterator[dict[str, Any]]:
    """Yield the local variables of the functions that the error came through, innermost first."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        yield frame.f_locals


def _place(error: BaseException) -> str:
    """Return module and line where an error was raised."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    return f"{frame.f_globals.get('__name__', '?')}, line {line}"


def _line(error: BaseException) -> str:
    """Return the line of code that raised an error."""
    return traceback.extract_tb(error.__traceback__)[-1].line or ""
