"""What became of each weight of a file and of each parameter of a model, in words and tables."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tabulate import tabulate

from gn_det.utils import and_more

__all__ = ["Report", "count_parts"]

# with these, the table and what stands around it fit on one screen
_MAX_ROWS, _MAX_SHAPES = 20, 8


@dataclass
class Report:
    """What became of each weight of a file and of each parameter of a model.

    Attributes:
        source: The project that the file was recognized as, such as "timm".
        matched: The names in the file, by the parameter (or buffer) of the model.
        missing: The parameters that nothing in the file belongs to.
        unused: The names in the file that belong to nothing in the model.
        shape_mismatch: Tuples of a parameter, its shape in the file and its shape in the model.
            They are not loaded.
        dropped: The reasons why entries of the file are of no use for a detector, by name.
        extra: The names in the file beside the part of the model that was compared.
    """

    source: str
    matched: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    shape_mismatch: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)

    @property
    def unfilled(self) -> list[str]:
        """The parameters that stay as they were: missing, or of another shape."""
        return [*self.missing, *(name for name, *_ in self.shape_mismatch)]

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

    def parts_table(self) -> str:
        """Return how many tensors of each part of the model are filled, on one screen.

        What stays random and what is not used stand below.
        """
        columns = {
            "filled": list(self.matched),
            "not in the file": self.missing,
            "other shape": [name for name, *_ in self.shape_mismatch],
        }
        names = [name for column in columns.values() for name in column]
        levels = 3 if len({_part(name) for name in names}) <= _MAX_ROWS else 1
        counts = [Counter(_part(name, levels) for name in column) for column in columns.values()]
        parts = dict.fromkeys(_part(name, levels) for name in names)
        rows = [[part, *(count[part] for count in counts)] for part in parts]
        lines = [tabulate(rows[:_MAX_ROWS], headers=["part of the model", *columns])]
        for name, theirs, ours in self.shape_mismatch[:_MAX_SHAPES]:
            lines.append(f"{name} stays as it was: {theirs} in the file, {ours} in the model.")
        if len(self.shape_mismatch) > _MAX_SHAPES:
            lines.append(f"So do {len(self.shape_mismatch) - _MAX_SHAPES} more of another shape.")
        if self.unused:
            lines.append(f"In the file, but not in the model: {count_parts(self.unused)}.")
        return "\n".join(lines)

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


def count_parts(names: Iterable[str], shown: int = 6) -> str:
    """Return ``backbone.fpn (3), ...``: parts of a model with the number of their tensors.

    Args:
        names: The names of tensors, at least one.
        shown: The number of parts that are written out.
    """
    parts = Counter(map(_part, names))
    return and_more([f"{part} ({count})" for part, count in parts.items()], shown)


def _part(name: str, levels: int = 3) -> str:
    """Return ``backbone.bottom_up.res2``, ``backbone.fpn`` or ``roi_heads.box_head``."""
    module = name.rpartition(".")[0] or name
    levels = min(levels, 3 if name.startswith("backbone.bottom_up.") else 2)
    return re.sub(r"\.fpn_(lateral|output)\d$", ".fpn", ".".join(module.split(".")[:levels]))
