"""Which weight goes to which parameter, and whether the two networks are the same kind.

A weight whose name lacks the modules in front goes to the parameter that ends with it, as
Detectron2 has it; where several do, to the longest.
"""

from dataclasses import dataclass, field

import torch
from torch import nn

from .converted import Converted

__all__ = ["Report", "match"]

# Layers whose size goes with the classes of a data set: other sizes are left random.
_PREDICTORS = (
    ".cls_score.",
    ".bbox_pred.",
    "mask_head.predictor.",
    "linear.",
    "head.cls_subnet",
    "keypoint_head.score_lowres.",
)


@dataclass
class Report:
    """What became of each weight of a file and of each parameter of a model.

    Attributes:
        source: what the file was recognized as.
        matched: parameter (or buffer) of the model -> name in the file.
        missing: parameters that nothing in the file belongs to.
        unused: names in the file that belong to nothing in the model.
        shape_mismatch: (parameter, shape in the file, shape in the model); not loaded.
        dropped: name in the file -> why it is of no use for a detector.
        extra: names in the file beside the part of the model that was compared.
    """

    source: str
    matched: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    shape_mismatch: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return one line."""
        text = f"{self.source}: {len(self.matched)} matched, {len(self.missing)} missing, "
        text += f"{len(self.unused)} unused"
        if self.shape_mismatch:
            text += f", {len(self.shape_mismatch)} of another shape"
        if self.extra:
            text += f", {len(self.extra)} beside the backbone"
        if self.dropped:
            reasons = sorted(set(self.dropped.values()))
            text += f"; {len(self.dropped)} left out ({', '.join(reasons)})"
        return text

    def table(self) -> str:
        """Return all names, in three or more parts."""
        width = max((len(name) for name in self.matched), default=0)
        lines = [f"matched ({len(self.matched)})"]
        lines += [f"  {ours:<{width}}  {theirs}" for ours, theirs in self.matched.items()]
        lines += [f"missing ({len(self.missing)})", *(f"  {name}" for name in self.missing)]
        lines += [f"unused ({len(self.unused)})", *(f"  {name}" for name in self.unused)]
        if self.shape_mismatch:
            lines += [f"of another shape ({len(self.shape_mismatch)})"]
            lines += [
                f"  {n}  {theirs} in the file, {ours}" for n, theirs, ours in self.shape_mismatch
            ]
        if self.extra:
            lines += [f"beside the backbone ({len(self.extra)})"]
            lines += [f"  {name}" for name in self.extra]
        if self.dropped:
            lines += [f"left out ({len(self.dropped)})"]
            lines += [f"  {name}  {reason}" for name, reason in self.dropped.items()]
        return "\n".join(lines)


def match(
    converted: Converted, model: nn.Module
) -> tuple[dict[str, torch.Tensor], dict[str, str], Report]:
    """Match weights to the parameters and buffers of ``model``, which is not changed.

    Returns:
        parameter -> weight; parameter -> key of ``converted.state``; the report. A weight of
        another shape than its parameter is in the second and the report's ``shape_mismatch`` alone.
    """
    wanted = model.state_dict()
    keys = _match_names(list(wanted), converted)
    report = Report(converted.source, dropped=dict(converted.dropped))
    found = {}
    for name, parameter in wanted.items():
        key = keys.get(name)
        if key is None:
            # BN counts its steps; what has not, starts at 0
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
    """Return parameter -> key of ``converted.state``."""
    keys = {name: name for name in wanted if name in converted.state}
    if not converted.suffixes and keys:
        return keys
    taken = set(keys)
    by_key: dict[str, str] = {}
    for name in wanted:
        parts = name.split(".")
        for start in range(1, len(parts)):
            key = ".".join(parts[start:])
            if name not in keys and key in converted.state and key not in taken:
                # one weight for two parameters would be a guess: it stays unused
                by_key[key] = "" if key in by_key else name
                break
    keys.update({name: key for key, name in by_key.items() if name})
    return keys


def is_predictor(name: str) -> bool:
    """Return whether the size of parameter ``name`` goes with the number of classes."""
    return any(part in f".{name}" for part in _PREDICTORS)
