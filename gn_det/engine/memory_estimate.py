"""Memory of a training step, told without training: a step on fake tensors, which have no memory.

All parts with weights run, forward and backward, so that every mode of ``MODEL.GN.MEMORY``, mixed
precision and image size is followed to the byte. What depends on pictures is set to its upper
bound: every image gives ``ROI_HEADS.BATCH_SIZE_PER_IMAGE`` RoIs, and ``POSITIVE_FRACTION`` of
them are on objects. Left out: a GPU's context and the libraries' workspaces.
"""

from dataclasses import dataclass
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.ops import roi_align

from gn_det.config import ConfigError

from .memory_meter import MemoryMeter

__all__ = ["Estimate", "estimate"]


@dataclass
class Estimate:
    """Bytes of one process.

    Attributes:
        parameters: parameters and buffers.
        optimizer: momentum.
        saved: kept from forward for backward.
        peak: the most of activations and gradients at a time.
    """

    parameters: int
    optimizer: int
    saved: int
    peak: int

    @property
    def total(self) -> int:
        """Bytes that have to be there."""
        return self.parameters + self.optimizer + self.peak


def estimate(cfg: CfgNode, images: int, height: int, width: int) -> Estimate:
    """Return the memory of one training step of ``cfg``.

    Args:
        cfg: a finished config of an R-CNN with boxes and masks.
        images: in one forward pass of one process.
        height: of an image as the model gets it, in pixels.
        width: likewise.

    Raises:
        ConfigError: a model of another kind.
    """
    if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN" or cfg.MODEL.KEYPOINT_ON:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}, MODEL.KEYPOINT_ON "
            f"{cfg.MODEL.KEYPOINT_ON}: memory can be told for GeneralizedRCNN with boxes and masks."
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    with FakeTensorMode():
        # build_model would move it to a device, which fake parameters cannot
        model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).train()
        batch = torch.empty(images, len(cfg.MODEL.PIXEL_MEAN), *_padded(model, height, width))
        with MemoryMeter() as meter:
            # bfloat16 is as wide as float16, which a CPU does not autocast to
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cfg.SOLVER.AMP.ENABLED):
                loss = _forward(model, cfg, batch)
            saved = meter.alive_bytes()
            loss.backward()
        parameters = sum(_bytes(t) for t in [*model.parameters(), *model.buffers()])
        trained = sum(_bytes(p) for p in model.parameters() if p.requires_grad)
    optimizer = trained if cfg.SOLVER.MOMENTUM else 0
    return Estimate(parameters, optimizer, saved, meter.peak_bytes)


def _forward(model: nn.Module, cfg: CfgNode, batch: torch.Tensor) -> torch.Tensor:
    """Run what has weights, and sum up its outputs in place of the losses."""
    features = model.backbone((batch - model.pixel_mean) / model.pixel_std)
    rpn, heads = model.proposal_generator, model.roi_heads
    logits, deltas = rpn.rpn_head([features[name] for name in rpn.in_features])
    # RPN brings the channels behind the pixels, which copies
    outputs = [x.permute(0, 2, 3, 1).flatten(1) for x in logits + deltas]
    rois = len(batch) * heads.batch_size_per_image
    on_objects = int(rois * heads.positive_fraction)
    if hasattr(heads, "res5"):
        pooled = _pool([features[name] for name in heads.in_features], heads.pooler, rois)
        shared = heads.res5(pooled)
        outputs += heads.box_predictor(shared.mean(dim=[2, 3]))
        if cfg.MODEL.MASK_ON:
            outputs.append(heads.mask_head.layers(shared[:on_objects])[:, 0])
    else:
        levels = [features[name] for name in heads.box_in_features]
        outputs += heads.box_predictor(heads.box_head(_pool(levels, heads.box_pooler, rois)))
        if cfg.MODEL.MASK_ON:
            pooled = _pool(levels, heads.mask_pooler, on_objects)
            outputs.append(heads.mask_head.layers(pooled)[:, 0])  # the loss takes one class a RoI
    return sum(x.float().sum() for x in outputs)


def _pool(levels: list[torch.Tensor], pooler: nn.Module, rois: int) -> torch.Tensor:
    """Return (R, C, S, S) features of RoIs that are spread evenly over the levels."""
    counts = [rois // len(levels)] * len(levels)
    counts[0] += rois - sum(counts)
    align = partial(roi_align, output_size=pooler.output_size, aligned=True)
    pooled = [align(x, x.new_empty(n, 5)) for x, n in zip(levels, counts)]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled)


def _padded(model: nn.Module, height: int, width: int) -> tuple[int, int]:
    divisor = max(model.backbone.size_divisibility, 1)
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
