"""The published numbers of each config, from ``zoo.json``."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Entry", "published", "zoo"]


@dataclass(frozen=True)
class Entry:
    """The published numbers of a config.

    Attributes:
        name: The name of the config, such as ``"mask_rcnn_R50_gn_all.yaml"``.
        row: The row of the published table, such as ``"R50 GN"``.
        table: The published table, such as ``"table 6"``; None if there is none.
        source: The publication.
        box: The published box AP in percent by metric (``AP``, ``AP50``, ``AP75``).
        mask: The published mask AP in percent by metric.
        detectron: Detectron's own run: model id, GB per GPU, seconds per iteration (8 GPUs).
        mem_gb: The training memory in GB per GPU that ``source`` published.
        weights: The URL of a published model of this config; None if there is none.
        note: A remark for readers.
        measured: Our own COCO result; None if it was not measured.
    """

    name: str
    row: str
    table: str | None = None
    source: str | None = None
    box: dict[str, float] | None = None
    mask: dict[str, float] | None = None
    detectron: dict[str, float] | None = None
    mem_gb: float | None = None
    weights: str | None = None
    note: str = ""
    measured: dict[str, float] | None = None

    def numbers(self, task: str) -> dict[str, float] | None:
        """Return the published AP in percent by metric.

        Args:
            task: "box" or "mask".
        """
        return {"box": self.box, "mask": self.mask}[task]


@cache
def zoo() -> dict[str, Entry]:
    """Return all entries by name of the config, in the order of the paper's tables."""
    data = json.loads((Path(__file__).parent / "zoo.json").read_text("utf-8"))
    return {name: Entry(name=name, **fields) for name, fields in data.items()}


def published(name: str) -> Entry | None:
    """Return the entry of a config, or None if it has none.

    Args:
        name: The name of the config, with ``.yaml``.
    """
    return zoo().get(name)
