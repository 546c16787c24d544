"""Estimate the memory of a training step: the step runs on fake tensors, which have no memory.

All parts with weights run, forward and backward, so that every mode of ``MODEL.GN.MEMORY``, mixed
precision and image size is followed to the byte. What depends on pictures is set to its upper
bound: every image gives ``ROI_HEADS.BATCH_SIZE_PER_IMAGE`` RoIs, and ``POSITIVE_FRACTION`` of
them are on objects. A GPU's context and the libraries' workspaces are left out.

Shapes: N images, R RoIs, C channels, H x W pixels of the level, S x S of a pooled RoI.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, StandardROIHeads
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.ops import roi_align

from gn_det.config import ConfigError

from .memory_meter import MemoryMeter

__all__ = ["Estimate", "estimate"]


@dataclass
class Estimate:
    """The memory of one process.

    Attributes:
        parameters: The bytes of parameters and buffers.
        optimizer: The bytes of the momentum.
        saved: The bytes that forward keeps for backward.
        peak: The most bytes of activations and gradients at a time.
    """

    parameters: int
    optimizer: int
    saved: int
    peak: int

    @property
    def total(self) -> int:
        """The bytes that there have to be."""
        return self.parameters + self.optimizer + self.peak


def estimate(cfg: CfgNode, images: int, height: int, width: int) -> Estimate:
    """Return the memory of one training step of a config.

    Args:
        cfg: A finished config of an R-CNN with boxes, or boxes and masks.
        images: The number of images in one forward pass of one process.
        height: The height in pixels of an image as the model gets it.
        width: The width in pixels of an image as the model gets it.

    Raises:
        ConfigError: The model has trained parts that no estimate can follow.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    with FakeTensorMode():
        # build_model would move it to a device, which fake parameters cannot
        model = _build(cfg)
        batch = torch.empty(images, len(cfg.MODEL.PIXEL_MEAN), *_padded(model, height, width))
        with MemoryMeter() as meter:
            # bfloat16 is as wide as float16, which a CPU does not autocast to
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cfg.SOLVER.AMP.ENABLED):
                loss = _forward(model, batch)
            saved = meter.alive_bytes()
            loss.backward()
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        _refuse_parts_that_did_not_run(cfg, trained)
        parameters = sum(_bytes(t) for t in [*model.parameters(), *model.buffers()])
        momentum = sum(_bytes(p) for p in trained.values()) if cfg.SOLVER.MOMENTUM else 0
    return Estimate(parameters, momentum, saved, meter.peak_bytes)


def _build(cfg: CfgNode) -> GeneralizedRCNN:
    architecture = cfg.MODEL.META_ARCHITECTURE
    make = META_ARCH_REGISTRY.get(architecture)
    if not (isinstance(make, type) and issubclass(make, GeneralizedRCNN)):
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE {architecture}: memory can be estimated for "
            "GeneralizedRCNN with boxes and masks."
        )
    model = make(cfg).train()
    heads = model.roi_heads
    known = isinstance(heads, Res5ROIHeads | StandardROIHeads)
    if not known or isinstance(heads, CascadeROIHeads):
        raise ConfigError(
            f"MODEL.ROI_HEADS.NAME {cfg.MODEL.ROI_HEADS.NAME}: memory can be estimated for "
            "StandardROIHeads and Res5ROIHeads, and what derives from them."
        )
    return model


def _refuse_parts_that_did_not_run(cfg: CfgNode, trained: dict[str, nn.Parameter]) -> None:
    # keypoint and semantic heads, for example
    left_out = {".".join(name.split(".")[:2]) for name, p in trained.items() if p.grad is None}
    if left_out:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}: memory can be estimated for "
            f"backbone, RPN, box and mask head, and this model has {', '.join(sorted(left_out))} "
            "too."
        )


def _forward(model: GeneralizedRCNN, batch: torch.Tensor) -> torch.Tensor:
    """Run what has weights on (N, C, H, W), and sum up its outputs in place of the losses."""
    features = model.backbone((batch - model.pixel_mean) / model.pixel_std)
    rpn, heads = model.proposal_generator, model.roi_heads
    logits, deltas = rpn.rpn_head([features[name] for name in rpn.in_features])
    # RPN brings the channels behind the pixels, which copies
    outputs = [x.permute(0, 2, 3, 1).flatten(1) for x in logits + deltas]
    rois = len(batch) * heads.batch_size_per_image
    on_objects = int(rois * heads.positive_fraction)
    if isinstance(heads, Res5ROIHeads):
        pooled = _pool([features[name] for name in heads.in_features], heads.pooler, rois)
        shared = heads.res5(pooled)
        outputs += heads.box_predictor(shared.mean(dim=[2, 3]))
        if heads.mask_on:
            outputs.append(heads.mask_head.layers(shared[:on_objects])[:, 0])
    else:
        levels = [features[name] for name in heads.box_in_features]
        outputs += heads.box_predictor(heads.box_head(_pool(levels, heads.box_pooler, rois)))
        if heads.mask_on:
            pooled = _pool(levels, heads.mask_pooler, on_objects)
            outputs.append(heads.mask_head.layers(pooled)[:, 0])  # the loss takes one class a RoI
    return sum((x.float().sum() for x in outputs), start=batch.new_zeros(()))


def _pool(levels: list[torch.Tensor], pooler: Any, rois: int) -> torch.Tensor:
    """Return (R, C, S, S) features of RoIs that are spread evenly over the levels."""
    counts = [rois // len(levels)] * len(levels)
    counts[0] += rois - sum(counts)
    align = partial(roi_align, output_size=pooler.output_size, aligned=True)
    pooled = [align(x, x.new_empty(n, 5)) for x, n in zip(levels, counts)]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled)


def _padded(model: GeneralizedRCNN, height: int, width: int) -> tuple[int, int]:
    divisor = max(model.backbone.size_divisibility, 1)
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
