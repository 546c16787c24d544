"""A training step of gn_det and of stock Detectron2: time, bytes saved for backward, peak memory.

Each repeat runs every variant once, in turn, on the same images, objects, proposals, sampled RoIs
and weights. A step is forward, backward and SGD.
"""

import argparse
import math
from dataclasses import asdict
from typing import Any

import torch
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from tabulate import tabulate

from gn_det.engine import autocast
from gn_det.engine.memory_meter import MemoryMeter

from .peak import peak_bytes
from .records import MIB
from .timing import interleave, summary
from .variants import STOCK_FROZENBN, STOCK_GN, Variant, add_ratios
from .workload import Setting, Workload, add_setting_arguments

__all__ = ["TrainStep", "add_arguments", "measure", "run", "table"]

DEFAULT_VARIANTS = "stock-*,*-fp32,*-bf16,*-bf16-channels_last"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``tools/benchmark.py train``."""
    add_setting_arguments(parser, variants=DEFAULT_VARIANTS)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure ``args.variants`` and return the record; see :func:`measure`."""
    setting = Setting.from_args(args)
    workload = Workload(setting)
    # first, while this process is small: both must fit into memory
    peaks = {v.name: peak_bytes(build_step, setting, v) for v in args.variants}
    rows = measure(workload, args.variants, args.repeats, args.warmup)
    for name, row in rows.items():
        row["peak_bytes"] = peaks[name]
    add_ratios(rows, "seconds", "saved_bytes", "peak_bytes")
    return {
        "benchmark": "train",
        "setting": asdict(setting),
        "repeats": args.repeats,
        "warmup": args.warmup,
        "variants": rows,
    }


def table(record: dict[str, Any]) -> str:
    """Return a table with a row for each variant. Ratios are to stock Detectron2 in fp32."""
    rows = []
    for name, row in record["variants"].items():
        gn, frozen = row["ratios"][STOCK_GN], row["ratios"][STOCK_FROZENBN]
        rows.append(
            [
                name,
                row["seconds"],
                f"{row['seconds_min']:.3g}-{row['seconds_max']:.3g}",
                row["saved_bytes"] / MIB,
                row["peak_bytes"] / MIB,
                *(r[key] for key in ("seconds", "saved_bytes", "peak_bytes") for r in (gn, frozen)),
            ]
        )
    headers = ["variant", "s/step", "min-max", "saved MiB", "peak MiB"]
    headers += [f"{what}/{to}" for what in ("time", "saved", "peak") for to in ("GN", "FrozenBN")]
    formats = ("", ".3g", "", ".0f", ".0f", *[".2f"] * 6)
    setting = Setting(**record["setting"])
    return (
        f"Training, {setting}; median of {record['repeats']}; "
        f"ratios to {STOCK_GN} and {STOCK_FROZENBN}\n\n"
        + tabulate(rows, headers, floatfmt=formats, missingval="-")
    )


class TrainStep:
    """A variant's model and optimizer; a call is one step.

    Args:
        workload: The batch, proposals and weights.
        variant: The variant to measure.

    Attributes:
        losses: The losses of the last step, by name.
    """

    def __init__(self, workload: Workload, variant: Variant):
        self.name = variant.name
        self.cfg = variant.config(workload.cfg)
        self.model = workload.model(variant)
        self.optimizer = build_optimizer(self.cfg, self.model)
        self.batch = workload.batch
        self.seed = workload.setting.seed
        self.losses: dict[str, float] = {}

    def forward(self) -> dict[str, torch.Tensor]:
        """Return the losses, with the same sampled anchors and RoIs each time."""
        torch.manual_seed(self.seed)
        with EventStorage(), autocast(self.cfg):
            return self.model(self.batch)

    def __call__(self) -> None:
        """Run forward, backward and SGD, in the order of training.

        Raises:
            FloatingPointError: A loss is NaN or infinite.
        """
        losses = self.forward()
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self.optimizer.step()
        # at once: each value that is read alone would wait for a GPU
        values = torch.stack([loss.detach().float() for loss in losses.values()]).tolist()
        self.losses = dict(zip(losses, values))
        if not all(math.isfinite(loss) for loss in self.losses.values()):
            raise FloatingPointError(f"{self.name} has losses {self.losses}; try another --seed.")

    def saved_bytes(self) -> int:
        """Return the bytes of distinct storages that a forward pass saves for backward."""
        with MemoryMeter() as meter:
            losses = self.forward()
        saved = meter.alive_bytes()
        del losses
        return saved


def build_step(setting: Setting, variant: Variant) -> TrainStep:
    """Return the training step of ``variant``, for a process of its own."""
    return TrainStep(Workload(setting), variant)


def measure(
    workload: Workload, variants: list[Variant], repeats: int, warmup: int = 1
) -> dict[str, dict[str, Any]]:
    """Return for each variant by name: seconds of a step, bytes saved for backward, losses.

    Args:
        workload: The batch, proposals and weights of all variants.
        variants: The variants, which run in turn.
        repeats: The number of timed steps of each variant.
        warmup: The number of untimed steps before.
    """
    steps = {variant.name: TrainStep(workload, variant) for variant in variants}
    saved = {name: step.saved_bytes() for name, step in steps.items()}

    def drop_gradients() -> None:
        for step in steps.values():
            step.optimizer.zero_grad()

    times = interleave(steps, repeats, warmup, after=drop_gradients)
    return {
        name: {**summary(times[name]), "saved_bytes": saved[name], "losses": step.losses}
        for name, step in steps.items()
    }
