"""The published numbers of each config, from ``zoo.json``."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Entry", "published", "zoo"]


@dataclass(frozen=True)
class Entry:
    """What is known of a config.

    Attributes:
        name: of the config, ``"mask_rcnn_R50_gn_all.yaml"``.
        row: of the published table, ``"R50 GN"``.
        table: ``"table 6"``; None where nobody published such a row.
        source: where the numbers were published.
        box: box AP in percent by metric (``AP``, ``AP50``, ``AP75``), as far as published.
        mask: mask AP, likewise.
        detectron: Detectron's own run of it: model id, GB a GPU, seconds an iteration (8 GPUs).
        mem_gb: GB a GPU in training, where ``source`` itself published it.
        weights: address of a published model of this config; None where there is none.
        note: what else a reader has to know.
        measured: our own COCO result; None where it was not run.
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
        """Return the published AP of ``task``, "box" or "mask"."""
        return {"box": self.box, "mask": self.mask}[task]


@cache
def zoo() -> dict[str, Entry]:
    """Return all entries by the name of the config, in the order of the paper's tables."""
    data = json.loads((Path(__file__).parent / "zoo.json").read_text())
    return {name: Entry(name=name, **fields) for name, fields in data.items()}


def published(name: str) -> Entry | None:
    """Return the entry of a config, or None where it is not one of gn_det's COCO configs."""
    return zoo().get(name)
