"""Training steps and inference beside stock Detectron2: time, launches, waiting, memory.

The variants of a group run in turn, in blocks of steps between two synchronizations, together with
the two stock models in bfloat16 that all others are compared with. All models stay on the GPU until
their group is done; memory is counted from what there was before a model was built.

Detectron2 has no key for channels_last. A user of its model may convert it, so FrozenBN is measured
in both memory formats.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import repeat
from typing import Any

import torch
from detectron2.utils.events import EventStorage

from benchmarks.infer import Inference, score_threshold
from benchmarks.timing import interleave, summary
from benchmarks.train import TrainStep
from benchmarks.variants import STOCK_GN, VARIANTS, Variant
from benchmarks.workload import Setting, Workload
from gn_det.engine.grad_accum import build_grad_accum_trainer
from gn_det.engine.memory_estimate import estimate

from .device import (
    DEVICE,
    PeakMemory,
    count_synchronizations,
    device_activity,
    held_bytes,
)
from .session import Section

__all__ = [
    "ANCHORS",
    "by_trainer",
    "measure_estimates",
    "measure_inference",
    "measure_training",
    "setting",
]

ANCHORS = ("stock-frozenbn-bf16", "stock-gn-bf16")
STOCK_CHANNELS_LAST = replace(VARIANTS[ANCHORS[0]], channels_last=True)
KNOWN = {**VARIANTS, STOCK_CHANNELS_LAST.name: STOCK_CHANNELS_LAST}
LEAN = "lean-bf16-channels_last"
MODES = ("lean", "standard", "minimal")
TRAINING = [
    [*ANCHORS, LEAN],
    ["standard-bf16-channels_last", "minimal-bf16-channels_last", STOCK_CHANNELS_LAST.name],
    [f"{mode}-bf16" for mode in MODES],
    ["stock-frozenbn-fp32", "stock-gn-fp32", *(f"{mode}-fp32" for mode in MODES)],
    [f"{mode}-fp32-channels_last" for mode in MODES],
]
INFERENCE = [
    [*ANCHORS, "standard-bf16-channels_last", "standard-bf16", STOCK_CHANNELS_LAST.name],
    ["stock-frozenbn-fp32", "stock-gn-fp32", "standard-fp32", "standard-fp32-channels_last"],
]
WITH_TRAINER = (LEAN, ANCHORS[0])  # also by the steps of a real run
ESTIMATED = [f"{mode}-bf16-channels_last" for mode in MODES] + ["lean-bf16", "lean-fp32"]

HEIGHT, WIDTH = 800, 1333
STEPS, BLOCKS, WARMUP = 3, 7, 3  # steps in a block, blocks, steps before the first measurement
LEAST = 15.0  # seconds for a variant

TINY = (
    *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"),
    *("MODEL.FPN.OUT_CHANNELS", "64", "MODEL.ROI_BOX_HEAD.CONV_DIM", "64"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "64", "MODEL.ROI_MASK_HEAD.CONV_DIM", "64"),
    *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "50", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "10"),
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", "50", "MODEL.RPN.POST_NMS_TOPK_TEST", "10"),
)


def setting(dry: bool, images: int, rois: int = 512) -> Setting:
    """Return the setting of R50-FPN with 800x1333 pixels; of a tiny model if ``dry``."""
    if dry:
        return Setting(options=TINY, images=images, height=64, width=96, rois=8)
    return Setting(images=images, height=HEIGHT, width=WIDTH, rois=rois)


def measure_training(section: Section, images: int) -> None:
    """Add a row for each variant of a training step, the most important ones first.

    Args:
        section: The section.
        images: The number of images in the batch.
    """
    workload = Workload(setting(section.dry, images))
    _ = workload.weights  # now: to make them takes a model of its own
    groups = [[ANCHORS[0], LEAN]] if section.dry else TRAINING

    def build(name: str) -> TrainStep:
        return _converted(KNOWN[name], TrainStep(workload, KNOWN[name]))

    _in_groups(section, groups, build, _inspect_step, lambda step: step.optimizer.zero_grad())


def measure_inference(section: Section, images: int) -> None:
    """Add a row for each variant of an inference; see :func:`measure_training`."""
    workload = Workload(setting(section.dry, images, rois=1000), training=False)
    logits = Inference(workload, VARIANTS[STOCK_GN]).outputs()["class logits"]
    threshold = score_threshold(logits, sum(len(p) for p in workload.proposals))
    groups = [[*INFERENCE[0][:3], STOCK_CHANNELS_LAST.name]] if section.dry else INFERENCE

    def build(name: str) -> Inference:
        return _converted(KNOWN[name], Inference(workload, KNOWN[name], threshold))

    _in_groups(section, groups, build, _inspect_inference, lambda work: None)


def _converted(variant: Variant, work: Any) -> Any:
    if variant.is_stock and variant.channels_last:
        work.model.to(memory_format=torch.channels_last)
    return work


def _in_groups(
    section: Section,
    groups: list[list[str]],
    build: Callable[[str], Any],
    inspect: Callable[[str, Any, dict[str, Any]], dict[str, Callable[[], Any]]],
    release: Callable[[Any], None],
) -> None:
    """Measure all variants.

    Args:
        section: The section.
        groups: The names of the variants that are timed in turn.
        build: A function that returns a variant's work.
        inspect: A function that measures one work and fills its row. It returns other works that
            are timed too, by name.
        release: A function that frees what a work holds from one call to the next.
    """
    if not section.dry:
        with suppress(Exception):  # its row will have the error
            build(ANCHORS[0])()  # workspaces of libraries would count as the first variant's memory
    steps = 1 if section.dry else STEPS
    anchors: dict[str, Callable[[], None]] = {}
    for group in groups:
        blocks = dict(anchors)
        for name in group:
            if section.has_time(name, LEAST):
                with section.row(name) as row:
                    blocks |= {
                        label: _block(work, steps)
                        for label, work in _measure(
                            name, build, inspect, release, row, section.dry
                        ).items()
                    }
        with section.guard(f"times of {', '.join(group)}"):
            _time(section, group, blocks, steps)
        anchors = {name: block for name, block in blocks.items() if name in ANCHORS}
        blocks.clear()


def _measure(
    name: str, build: Callable, inspect: Callable, release: Callable, row: dict[str, Any], dry: bool
) -> dict[str, Callable[[], Any]]:
    """Build and measure one variant, and return what is to be timed, by name.

    For the arguments see :func:`_in_groups`. Here nothing of a variant that failed is kept.
    """
    memory = PeakMemory()
    start = time.perf_counter()
    work = build(name)
    work()
    row["first_seconds"] = time.perf_counter() - start  # with compilations
    for _ in range(0 if dry else WARMUP):
        work()
    release(work)
    memory.restart()
    work()
    row |= memory.read()
    return {name: work, **inspect(name, work, row)}


def _block(work: Callable[[], Any], steps: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(steps):
            work()

    return run


def _time(
    section: Section, group: Iterable[str], blocks: dict[str, Callable[[], None]], steps: int
) -> None:
    """Time the blocks in turn, and add the seconds and ratios of ``group`` to its rows.

    At the end of the section's time no further round begins.
    """
    times = interleave(blocks, 1, 0 if section.dry else 1)
    for _ in range(0 if section.dry else BLOCKS - 1):
        if section.left() > 0:
            for name, of in interleave(blocks, 1, 0).items():
                times[name] += of
    seconds = {name: summary([t / steps for t in of]) for name, of in times.items()}
    for name in group:
        row = section.rows[name]
        if name not in seconds or "error" in row:
            continue
        row |= seconds[name]
        median = row["seconds"]
        row["time_over"] = {a: median / seconds[a]["seconds"] for a in ANCHORS if a in seconds}
        if (trainer := f"{name} by the trainer") in seconds:
            row["trainer"] |= seconds[trainer]
        section.add(name, row)


def _inspect_step(name: str, step: TrainStep, row: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    step.optimizer.zero_grad()
    row["kept"] = held_bytes(step.forward)
    row["synchronizations"] = count_synchronizations(step)
    row |= device_activity(step)
    row["losses"] = step.losses
    if name not in WITH_TRAINER:
        return {}
    run = by_trainer(step)
    run()
    row["trainer"] = {"synchronizations": count_synchronizations(run), **device_activity(run)}
    return {f"{name} by the trainer": run}


def by_trainer(step: TrainStep) -> Callable[[], None]:
    """Return the step of a real run of gn_det on the same batch."""
    batch = step.batch
    if DEVICE == "cuda":  # the loader of a run gives page-locked images
        batch = [{**image, "image": image["image"].pin_memory()} for image in batch]
    trainer = build_grad_accum_trainer(step.cfg, step.model, repeat(batch), step.optimizer)
    trainer.iter = 0

    def run() -> None:
        torch.manual_seed(step.seed)
        with EventStorage():
            trainer.run_step()

    return run


def _inspect_inference(
    _name: str, work: Inference, row: dict[str, Any]
) -> dict[str, Callable[[], Any]]:
    row["synchronizations"] = count_synchronizations(work)
    row |= device_activity(work)
    row["detections"] = work.detections
    return {}


def measure_estimates(section: Section, images: int) -> None:
    """Add the estimated memory of the variants that :func:`measure_training` measures."""
    of = setting(section.dry, images)
    for name in ESTIMATED[:1] if section.dry else ESTIMATED:
        if not section.has_time(name, 5):
            continue
        with section.row(name) as row:
            start = time.perf_counter()
            found = estimate(VARIANTS[name].config(of.cfg()), images, of.height, of.width)
            # libraries have their workspaces before a model is measured: they do not count
            peak = found.parameters + found.optimizer + found.peak
            row |= {"kept": found.saved, "peak": peak}
            row["took_seconds"] = time.perf_counter() - start
