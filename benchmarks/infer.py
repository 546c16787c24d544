"""Inference of gn_det and of stock Detectron2: time, peak memory, difference of the outputs.

Each repeat runs every variant once, in turn, on the same images, proposals and weights. The modes
of ``MODEL.GN.MEMORY`` are the same in inference, so that only ``standard`` is measured.

Shapes:
    R: RoIs
"""

import argparse
from dataclasses import asdict
from typing import Any

import torch
from detectron2.structures import Instances
from tabulate import tabulate

from gn_det.engine import autocast

from .peak import peak_bytes
from .records import MIB
from .timing import interleave, summary
from .variants import STOCK_FROZENBN, STOCK_GN, VARIANTS, Variant, add_ratios
from .workload import Setting, Workload, add_setting_arguments

__all__ = ["Inference", "add_arguments", "measure", "run", "table"]

DEFAULT_VARIANTS = "stock-*,standard-*"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``tools/benchmark.py infer``."""
    add_setting_arguments(parser, variants=DEFAULT_VARIANTS, images=1, rois=1000)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure ``args.variants`` and return the record; see :func:`measure`."""
    setting = Setting.from_args(args)
    workload = Workload(setting, training=False)
    reference = Inference(workload, VARIANTS[STOCK_GN]).outputs()
    # as many candidates as RoIs, for any scores of the random weights
    threshold = score_threshold(reference["class logits"], sum(len(p) for p in workload.proposals))
    peaks = {v.name: peak_bytes(build_inference, setting, v, threshold) for v in args.variants}
    rows = measure(workload, args.variants, reference, threshold, args.repeats, args.warmup)
    for name, row in rows.items():
        row["peak_bytes"] = peaks[name]
    add_ratios(rows, "seconds", "peak_bytes")
    return {
        "benchmark": "infer",
        "setting": asdict(setting),
        "repeats": args.repeats,
        "warmup": args.warmup,
        "largest_output": {k: v.abs().max().item() for k, v in reference.items()},
        "variants": rows,
    }


def table(record: dict[str, Any]) -> str:
    """Return a table with a row for each variant. Differences are to stock Detectron2's fp32 GN."""
    outputs = list(record["largest_output"])
    rows = []
    for name, row in record["variants"].items():
        gn, frozen = row["ratios"][STOCK_GN], row["ratios"][STOCK_FROZENBN]
        differences = row["differences"] or {}
        rows.append(
            [
                name,
                row["seconds"],
                f"{row['seconds_min']:.3g}-{row['seconds_max']:.3g}",
                row["peak_bytes"] / MIB,
                row["detections"],
                gn["seconds"],
                frozen["seconds"],
                *(differences.get(output) for output in outputs),
            ]
        )
    headers = ["variant", "s/batch", "min-max", "peak MiB", "detections", "time/GN"]
    headers += ["time/FrozenBN", *(f"diff {output}" for output in outputs)]
    formats = ("", ".3g", "", ".0f", "", ".2f", ".2f", *[".1e"] * len(outputs))
    setting = Setting(**record["setting"])
    largest = ", ".join(f"{k} {v:.3g}" for k, v in record["largest_output"].items())
    return (
        f"Inference, {setting}; median of {record['repeats']}; "
        f"ratios to {STOCK_GN} and {STOCK_FROZENBN}\n\n"
        + tabulate(rows, headers, floatfmt=formats, missingval="-")
        + f"\n\ndiff: largest absolute difference to {STOCK_GN}, whose largest are: {largest}"
    )


class Inference:
    """A variant's model; a call runs one batch through the whole model, with pasted masks.

    Args:
        workload: The batch, proposals and weights.
        variant: The variant to measure.
        threshold: The score threshold in [0, 1]; None for the config's.

    Attributes:
        detections: The number of detections of the last call, in all images.
    """

    def __init__(self, workload: Workload, variant: Variant, threshold: float | None = None):
        self.cfg = variant.config(workload.cfg)
        self.model = workload.model(variant)
        self.batch = workload.batch
        self.detections = 0
        if threshold is not None:
            self.model.roi_heads.box_predictor.test_score_thresh = threshold

    @torch.inference_mode()
    def __call__(self) -> None:
        """Run the model."""
        with autocast(self.cfg):
            results = self.model(self.batch)
        self.detections = sum(len(result["instances"]) for result in results)

    @torch.inference_mode()
    def outputs(self, num_masks: int = 100) -> dict[str, torch.Tensor]:
        """Return the outputs of the heads for all proposals, before any threshold.

        Args:
            num_masks: The number of proposals per image that get a mask (of class 0).
        """
        model = self.model
        heads = model.roi_heads
        predictions = []
        hook = heads.box_predictor.register_forward_hook(lambda *a: predictions.append(a[-1]))
        given = []
        for proposals in model.proposal_generator.proposals:
            boxes = proposals.proposal_boxes[:num_masks]
            classes = torch.zeros(len(boxes), dtype=torch.int64, device=model.device)
            given.append(Instances(proposals.image_size, pred_boxes=boxes, pred_classes=classes))
        with autocast(self.cfg):
            model.inference(self.batch, do_postprocess=False)
            masked = model.inference(self.batch, given, do_postprocess=False)
        hook.remove()
        logits, deltas = predictions[0]
        return {
            "class logits": logits.float(),
            "box deltas": deltas.float(),
            "mask scores": torch.cat([m.pred_masks for m in masked]).float(),
        }


def score_threshold(logits: torch.Tensor, candidates: int) -> float:
    """Return the score that ``candidates`` pairs of RoI and class reach.

    Args:
        logits: The logits of shape (R, classes + 1). The last class is the background.
        candidates: The number of pairs.
    """
    scores = logits.softmax(dim=1)[:, :-1].flatten()
    return scores.topk(min(candidates, len(scores))).values[-1].item()


def build_inference(setting: Setting, variant: Variant, threshold: float) -> Inference:
    """Return the inference of ``variant``, for a process of its own."""
    return Inference(Workload(setting, training=False), variant, threshold)


def measure(
    workload: Workload,
    variants: list[Variant],
    reference: dict[str, torch.Tensor],
    threshold: float,
    repeats: int,
    warmup: int = 1,
) -> dict[str, dict[str, Any]]:
    """Return for each variant by name: seconds per batch, detections, differences of outputs.

    Args:
        workload: The batch, proposals and weights of all variants.
        variants: The variants, which run in turn.
        reference: The outputs that those of GN models are compared with. FrozenBN is another model.
        threshold: The score threshold in [0, 1].
        repeats: The number of timed batches of each variant.
        warmup: The number of untimed batches before.
    """
    works = {variant.name: Inference(workload, variant, threshold) for variant in variants}
    outputs = {
        variant.name: works[variant.name].outputs()
        for variant in variants
        if variant.source != "stock-frozenbn"
    }
    differences = {
        name: {key: (value - reference[key]).abs().max().item() for key, value in out.items()}
        for name, out in outputs.items()
    }
    del outputs
    times = interleave(works, repeats, warmup)
    return {
        name: {
            **summary(times[name]),
            "detections": work.detections,
            "differences": differences.get(name),
        }
        for name, work in works.items()
    }
