"""A training step on a GPU, counted without one: operations, bytes, memory.

The step of ``gn-det estimate`` runs on fake tensors of a GPU: backbone, FPN and heads, without
losses, matching of boxes and optimizer. An operation is one of PyTorch's that computes something,
or one of our kernels. Its bytes are those of all tensors that it reads or writes: what stays in a
cache counts too. Set GN_DET_KERNELS=0 to count without our kernels.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from unittest import mock

import torch
from tabulate import tabulate
from torch.utils._pytree import tree_leaves

from gn_det.engine import memory_estimate
from gn_det.engine.memory_meter import MemoryMeter
from gn_det.layers.kernels import group_norm_launch, roi_align

from .records import MIB
from .variants import Variant
from .workload import Setting, add_setting_arguments

__all__ = ["add_arguments", "count", "run", "table"]

DEFAULT_VARIANTS = "stock-*-bf16,*-bf16-channels_last"
# PyTorch's own kernels read the input, and in backward also the gradient, twice
READ_TWICE = {"native_group_norm": 1, "native_group_norm_backward": 2}
COMPUTES_NOTHING = {"detach", "_unsafe_view", "lift_fresh", "is_same_size"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``tools/benchmark.py counts``."""
    add_setting_arguments(parser, variants=DEFAULT_VARIANTS)
    parser.set_defaults(height=800, width=1333)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Count ``args.variants`` and return the record."""
    setting = Setting.from_args(args)
    return {
        "benchmark": "counts",
        "setting": asdict(setting),
        "variants": {variant.name: count(setting, variant) for variant in args.variants},
    }


def count(setting: Setting, variant: Variant) -> dict[str, int]:
    """Return operations and bytes of a step, of them those of our kernels, kept and peak bytes.

    Args:
        setting: The model and the sizes.
        variant: The variant.
    """
    cfg = variant.config(setting.cfg())
    cfg.MODEL.DEVICE = "cuda"
    with _counters() as (work, ours):
        found = memory_estimate.estimate(cfg, setting.images, setting.height, setting.width)
    return {
        "operations": work["operations"] + ours["operations"],
        "bytes": work["bytes"] + ours["bytes"],
        "kernel_launches": ours["operations"],
        "kernel_bytes": ours["bytes"],
        "kept_bytes": found.saved,
        "peak_bytes": found.parameters + found.optimizer + found.peak,
    }


@contextmanager
def _counters() -> Iterator[tuple[Counter[str], Counter[str]]]:
    """Give what the estimate's step does: PyTorch's operations, and launches of our kernels."""
    work, ours = Counter[str](), Counter[str]()

    class Meter(MemoryMeter):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = super().__torch_dispatch__(func, types, args, kwargs)
            name = func.overloadpacket.__name__
            tensors = _tensors(out)
            if tensors and not (_is_view(func) or "empty" in name or name in COMPUTES_NOTHING):
                work["operations"] += 1
                work["bytes"] += _bytes(_tensors((args, kwargs)) + tensors)
                work["bytes"] += READ_TWICE.get(name, 0) * _bytes(_tensors(args)[:1])
            return out

    def launch(*args: Any, **_constants: Any) -> None:
        ours["operations"] += 1
        ours["bytes"] += _bytes(_tensors(args))

    with (
        mock.patch.object(memory_estimate, "MemoryMeter", Meter),
        mock.patch.object(group_norm_launch, "_launch", launch),
        mock.patch.object(roi_align, "_launch", launch),
    ):
        yield work, ours


def _is_view(function: Any) -> bool:
    about = [result.alias_info for result in function._schema.returns]
    return any(alias is not None and not alias.is_write for alias in about)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def table(record: dict[str, Any]) -> str:
    """Return a table with a row for each variant."""
    rows = [
        [
            name,
            row["operations"],
            row["kernel_launches"],
            f"{row['bytes'] / 1e9:.1f}",
            f"{row['kernel_bytes'] / 1e9:.1f}",
            f"{row['kept_bytes'] / MIB:.0f}",
            f"{row['peak_bytes'] / MIB:.0f}",
        ]
        for name, row in record["variants"].items()
    ]
    headers = ["variant", "operations", "of them our kernels", "GB", "of them our kernels"]
    headers += ["kept MiB", "peak MiB"]
    text = tabulate(rows, headers, disable_numparse=True)
    return f"A training step on a GPU, counted, {Setting(**record['setting'])}\n\n{text}"
