"""Detectron2's ROIPooler with gn_det's RoIAlign.

Shapes:
    N: images
    R: RoIs of all images
    C: channels
    H, W: height and width of a level
    P: bins of a RoI along one side
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2 import layers
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import poolers
from detectron2.structures import Boxes
from torch import nn

from gn_det.layers import pyramid_roi_align

__all__ = ["ROIAlign", "ROIPooler", "pooler_from_cfg"]


class ROIAlign(layers.ROIAlign):
    """Detectron2's RoIAlign of one level, in float32 (float64 for float64 features).

    Detectron2 rounds boxes to the dtype of the features. For bfloat16 this moves coordinates above
    512 by up to 2 pixels. Here boxes are not rounded, and sums are float32 on every device.
    """

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Return a tensor of shape (R, C, P, P) with the dtype of ``input``.

        Args:
            input: The features of the level, of shape (N, C, H, W).
            rois: The image index and box of each RoI, of shape (R, 5).
        """
        compute_dtype = torch.promote_types(input.dtype, torch.float32)
        return super().forward(input.to(compute_dtype), rois).to(input.dtype)


class ROIPooler(poolers.ROIPooler):
    """Detectron2's pooler with a faster and more precise RoIAlign on a CPU.

    On a CPU all levels are pooled by one operation that keeps the memory format of the features.
    (Detectron2 writes the RoIs of each level into one contiguous tensor, whose gradient is copied
    once per level.) On a GPU, in a traced or compiled model, and for poolers other than RoIAlign,
    Detectron2's code runs.

    Args:
        output_size: The number of bins P, or the numbers along y and x.
        scales: The scale of each level relative to the image, 1 / stride.
        sampling_ratio: The number of samples of a bin along each axis; 0 for one sample per pixel.
        pooler_type: "ROIAlignV2" (pixel centers at 0.5), "ROIAlign" (pixel centers at 0), or
            another of Detectron2's names.
        **kwargs: Detectron2's ``canonical_box_size`` and ``canonical_level``.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        scales: Sequence[float],
        sampling_ratio: int,
        pooler_type: str,
        **kwargs: Any,
    ):
        super().__init__(output_size, scales, sampling_ratio, pooler_type, **kwargs)
        self.is_roi_align = pooler_type in ("ROIAlign", "ROIAlignV2")
        if self.is_roi_align:
            self.scales, self.sampling_ratio = tuple(scales), sampling_ratio
            self.aligned = pooler_type == "ROIAlignV2"
            self.level_poolers = nn.ModuleList(
                ROIAlign(self.output_size, scale, sampling_ratio, self.aligned) for scale in scales
            )

    def forward(self, x: list[torch.Tensor], box_lists: list[Boxes]) -> torch.Tensor:
        """Return the features of the RoIs of all images, of shape (R, C, P, P).

        Args:
            x: The feature map of each level, of shape (N, C, H, W).
            box_lists: The boxes of each of the N images, in pixels of the image. May be empty.
        """
        if not (self.is_roi_align and box_lists and x[0].device.type == "cpu") or _is_traced():
            return super().forward(x, box_lists)
        rois = poolers.convert_boxes_to_pooler_format(box_lists)
        levels = poolers.assign_boxes_to_levels(
            box_lists, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        )
        return pyramid_roi_align(
            x, rois, levels, self.scales, self.output_size, self.sampling_ratio, self.aligned
        )


def pooler_from_cfg(node: CfgNode, features: Sequence[ShapeSpec]) -> ROIPooler | None:
    """Build the pooler of a head; return None if its ``POOLER_TYPE`` is empty.

    Args:
        node: The keys of the head, such as ``cfg.MODEL.ROI_BOX_HEAD``.
        features: The levels of the pyramid, with their strides.
    """
    if not node.POOLER_TYPE:
        return None
    return ROIPooler(
        output_size=node.POOLER_RESOLUTION,
        scales=tuple(1.0 / feature.stride for feature in features),
        sampling_ratio=node.POOLER_SAMPLING_RATIO,
        pooler_type=node.POOLER_TYPE,
    )


def _is_traced() -> bool:
    # the trace would hold the number of RoIs of this one input
    return torch.jit.is_tracing() or torch.compiler.is_compiling()
