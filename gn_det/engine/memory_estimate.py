"""Estimate the memory of a training step: the step runs on fake tensors, which have no memory.

All parts with weights run, forward and backward, so that every mode of ``MODEL.GN.MEMORY``, mixed
precision and image size is followed to the byte. The tensors are of ``MODEL.DEVICE``: for a GPU the
model takes the GPU's paths, on a machine without one too (the CPU's where PyTorch is older than
2.4). What depends on pictures is set to its upper bound: every image gives
``ROI_HEADS.BATCH_SIZE_PER_IMAGE`` RoIs, and ``POSITIVE_FRACTION`` of them are on objects.

On a GPU the total is what ``torch.cuda.max_memory_allocated`` counts. Beyond it the process takes
the GPU's context (:data:`CONTEXT`), what the allocator cannot use between its blocks, and for the
time of a call the workspaces of cuDNN's convolutions, for which no limit is documented.

Shapes: N images, R RoIs, C channels, H x W pixels of the level, S x S of a pooled RoI.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, StandardROIHeads
from detectron2.structures import Boxes
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torchvision.ops import roi_align

from gn_det.config import ConfigError

from . import fake_gpu
from .memory_meter import GPU_UNIT, MemoryMeter, rounded_up

__all__ = ["CONTEXT", "Estimate", "estimate"]

# the bytes of a GPU that its context and the code of libraries take, with room to spare
CONTEXT = 1 << 30
# cuBLAS's workspace has 32 MiB on Hopper and Blackwell, 8 on older GPUs, unless
# CUBLAS_WORKSPACE_CONFIG says otherwise; forward and backward run on a thread each, with its own
WORKSPACES = 2 * (32 << 20)


@dataclass
class Estimate:
    """The memory of one process.

    Attributes:
        parameters: The bytes of parameters and buffers.
        optimizer: The bytes of the momentum.
        saved: The bytes that forward keeps for backward, with the weights that autocast casts.
        peak: The most bytes of activations and gradients at a time. With gradient accumulation the
            gradients of former micro-batches are there from the start.
        buckets: The bytes of the second copy of the gradients that DistributedDataParallel has.
        workspaces: The bytes of cuBLAS's workspaces.
    """

    parameters: int
    optimizer: int
    saved: int
    peak: int
    buckets: int = 0
    workspaces: int = 0

    @property
    def total(self) -> int:
        """The bytes that there have to be."""
        return self.parameters + self.optimizer + self.peak + self.buckets + self.workspaces


def estimate(cfg: CfgNode, images: int, height: int, width: int, processes: int = 1) -> Estimate:
    """Return the memory of one training step of a config.

    Args:
        cfg: A finished config of an R-CNN with boxes, or boxes and masks.
        images: The number of images in one forward pass of one process.
        height: The height in pixels of an image as the model gets it.
        width: The width in pixels of an image as the model gets it.
        processes: The number of processes that train together, one for each GPU.

    Raises:
        ConfigError: The model has trained parts that no estimate can follow.
    """
    on_gpu = torch.device(cfg.MODEL.DEVICE).type == "cuda"
    unit = GPU_UNIT if on_gpu else 1
    followed = on_gpu and fake_gpu.SUPPORTED
    device = "cuda" if followed else "cpu"
    accumulates = images * processes < cfg.SOLVER.IMS_PER_BATCH
    with FakeTensorMode(), fake_gpu.cuda_autocast_available() if followed else nullcontext():
        with torch.device(device):
            # build_model would move it to a device, which fake parameters cannot
            model = _build(cfg)
            batch = torch.empty(images, len(cfg.MODEL.PIXEL_MEAN), *_padded(model, height, width))
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        with MemoryMeter(unit) as meter:
            if accumulates:
                for parameter in trained.values():
                    parameter.grad = torch.empty_like(parameter)
            gradients = meter.alive_bytes()
            # float16 and bfloat16 are as wide; each device is asked for the one that it always has
            dtype = torch.float16 if followed else torch.bfloat16
            with torch.autocast(device, dtype=dtype, enabled=cfg.SOLVER.AMP.ENABLED):
                loss = _forward(model, batch)
            saved = meter.alive_bytes() - gradients
            if followed:
                fake_gpu.fake_backward(loss)
            else:
                loss.backward()
        _refuse_parts_that_did_not_run(cfg, trained, accumulates)
        parameters = sum(_bytes(t, unit) for t in [*model.parameters(), *model.buffers()])
        of_trained = sum(_bytes(p, unit) for p in trained.values())
    return Estimate(
        parameters,
        of_trained if cfg.SOLVER.MOMENTUM else 0,
        saved,
        meter.peak_bytes,
        of_trained if processes > 1 else 0,
        WORKSPACES if on_gpu else 0,
    )


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


def _refuse_parts_that_did_not_run(
    cfg: CfgNode, trained: dict[str, nn.Parameter], accumulates: bool
) -> None:
    # keypoint and semantic heads, for example
    # a gradient of former micro-batches that nothing was added to has its first version
    left_out = {
        ".".join(name.split(".")[:2])
        for name, p in trained.items()
        if p.grad is None or (accumulates and not p.grad._version)
    }
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
    """Return (R, C, S, S) features of RoIs that are spread evenly over the images and levels."""
    if levels[0].device.type == "cpu":
        align = partial(roi_align, output_size=pooler.output_size, aligned=True)
        counts = _shares(rois, len(levels))
        pooled = [align(x, x.new_empty(n, 5)) for x, n in zip(levels, counts)]
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled)
    counts = _shares(rois, len(levels[0]))
    try:
        return pooler(levels, [Boxes(torch.empty(n, 4, device=levels[0].device)) for n in counts])
    except (DataDependentOutputException, DynamicOutputShapeException):
        return _pool_by_level(levels, pooler, rois)  # it looks at the boxes, which are fake


def _pool_by_level(levels: list[torch.Tensor], pooler: ROIPooler, rois: int) -> torch.Tensor:
    """Pool as Detectron2's pooler does, which looks for the RoIs of each level."""
    boxes = [torch.empty(n, 5, device=levels[0].device) for n in _shares(rois, len(levels))]
    if len(levels) == 1:
        return pooler.level_poolers[0](levels[0], boxes[0])
    out = levels[0].new_zeros(rois, levels[0].shape[1], *pooler.output_size)
    for x, own, of_level in zip(levels, boxes, pooler.level_poolers):
        out.index_put_((torch.arange(len(own), device=x.device),), of_level(x, own))
    return out


def _shares(count: int, parts: int) -> list[int]:
    return [count // parts + (i < count % parts) for i in range(parts)]


def _padded(model: GeneralizedRCNN, height: int, width: int) -> tuple[int, int]:
    divisor = max(model.backbone.size_divisibility, 1)
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def _bytes(tensor: torch.Tensor, unit: int) -> int:
    return rounded_up(tensor.numel() * tensor.element_size(), unit)
