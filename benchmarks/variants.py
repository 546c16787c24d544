"""The variants to compare: stock Detectron2 and gn_det in each mode, precision, memory format."""

import argparse
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from detectron2.config import CfgNode

__all__ = [
    "STOCK_FROZENBN",
    "STOCK_GN",
    "STOCK_NAMES",
    "VARIANTS",
    "Variant",
    "add_ratios",
    "choose",
    "set_stock_names",
]

# Detectron2's registered name for each of ours
STOCK_NAMES = {
    "build_gn_resnet_backbone": "build_resnet_backbone",
    "build_gn_resnet_fpn_backbone": "build_resnet_fpn_backbone",
    "GNFastRCNNConvFCHead": "FastRCNNConvFCHead",
    "GNMaskRCNNConvUpsampleHead": "MaskRCNNConvUpsampleHead",
    "GNRes5ROIHeads": "Res5ROIHeads",
    "GNRPNHead": "StandardRPNHead",
    "GNStandardROIHeads": "StandardROIHeads",
}


@dataclass(frozen=True)
class Variant:
    """One row of a table.

    Attributes:
        source: ``stock-frozenbn``: Detectron2 with FrozenBN in the backbone, no norm in FPN and
            heads, and the stride in the first 1x1 convolution, as its pre-trained weights need it;
            ``stock-gn``: Detectron2's own ``NORM: GN`` everywhere; otherwise gn_det with this
            ``MODEL.GN.MEMORY``.
        precision: ``fp32``, or ``bf16`` for autocast.
        channels_last: The value of gn_det's ``MODEL.CHANNELS_LAST``.
    """

    source: str
    precision: str = "fp32"
    channels_last: bool = False

    @property
    def name(self) -> str:
        """``SOURCE-PRECISION``, with ``-channels_last`` if it is on."""
        return f"{self.source}-{self.precision}" + "-channels_last" * self.channels_last

    @property
    def is_stock(self) -> bool:
        """Whether the variant is Detectron2 without gn_det."""
        return self.source.startswith("stock")

    def config(self, cfg: CfgNode) -> CfgNode:
        """Return the config of this variant.

        Args:
            cfg: A config of gn_det with GN everywhere. It is not changed.
        """
        cfg = cfg.clone()
        m = cfg.MODEL
        if self.is_stock:
            set_stock_names(cfg)
        else:
            m.GN.MEMORY = self.source
            m.CHANNELS_LAST = self.channels_last
        if self.source == "stock-frozenbn":
            m.RESNETS.NORM = "FrozenBN"
            m.RESNETS.STRIDE_IN_1X1 = True
            m.FPN.NORM = m.ROI_BOX_HEAD.NORM = m.ROI_MASK_HEAD.NORM = ""
        cfg.SOLVER.AMP.ENABLED = self.precision == "bf16"
        cfg.SOLVER.AMP.DTYPE = "bfloat16"
        return cfg


def set_stock_names(cfg: CfgNode) -> None:
    """Replace our registered names by Detectron2's own, in place."""
    for node in cfg.MODEL.values():
        for key in {"NAME", "HEAD_NAME"} & (node.keys() if isinstance(node, CfgNode) else set()):
            node[key] = STOCK_NAMES.get(node[key], node[key])


def _all_variants() -> list[Variant]:
    stock = [Variant(f"stock-{norm}", p) for p in ("fp32", "bf16") for norm in ("frozenbn", "gn")]
    ours = [
        Variant(memory, precision, channels_last)
        for precision, channels_last in (
            ("fp32", False),
            ("fp32", True),
            ("bf16", False),
            ("bf16", True),
        )
        for memory in ("standard", "lean", "minimal")
    ]
    return stock + ours


VARIANTS = {variant.name: variant for variant in _all_variants()}

# the variants that ratios refer to
STOCK_FROZENBN = "stock-frozenbn-fp32"
STOCK_GN = "stock-gn-fp32"


def choose(names: str) -> list[Variant]:
    """Return the variants of some names, in the order of :data:`VARIANTS`.

    Args:
        names: Names separated by commas, with ``*`` for any letters, such as ``stock-*,lean-bf16``.

    Raises:
        argparse.ArgumentTypeError: A name fits no variant.
    """
    patterns = [name.strip() for name in names.split(",") if name.strip()]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in VARIANTS):
            raise argparse.ArgumentTypeError(
                f"no variant is called {pattern!r}; known are {', '.join(VARIANTS)}"
            )
    return [v for name, v in VARIANTS.items() if any(fnmatch(name, p) for p in patterns)]


def add_ratios(rows: dict[str, dict[str, Any]], *keys: str) -> None:
    """Add ``"ratios"`` to each row: its numbers divided by those of stock Detectron2 in fp32.

    ``"ratios"`` is ``{STOCK_GN: {key: ratio}, STOCK_FROZENBN: {key: ratio}}``. A ratio is None if
    that variant was not measured.

    Args:
        rows: The row of each variant, by name.
        keys: The keys of numbers in each row, all above 0.
    """
    for row in rows.values():
        row["ratios"] = {
            to: {key: row[key] / rows[to][key] if to in rows else None for key in keys}
            for to in (STOCK_GN, STOCK_FROZENBN)
        }
