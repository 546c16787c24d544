"""Features of RoIs: Detectron2's ROIPooler on gn_det's RoIAlign.

Shapes: R RoIs, N images, C channels, H x W pixels of a level, P x P bins of a RoI.
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
    """Detectron2's RoIAlign of one level, with boxes as exact as they come.

    Detectron2 rounds the boxes to the type of the features: by up to 2 pixels at 512 and more
    where these are bfloat16. The sums are float32 on any device; torchvision's autocast has them
    so, too.
    """

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Return (R, C, P, P), of the type of ``input`` (N, C, H, W), for ``rois`` (R, 5)."""
        exact = torch.promote_types(input.dtype, torch.float32)
        return super().forward(input.to(exact), rois).to(input.dtype)


class ROIPooler(poolers.ROIPooler):
    """Detectron2's pooler with a faster and more exact RoIAlign on a CPU.

    There all levels are one operation, which keeps the memory format of the features. Detectron2
    writes each level's RoIs into one contiguous tensor, whose gradient is copied once a level. On
    a GPU, in a model that is traced or compiled, and for other types of pooling than RoIAlign,
    Detectron2's code is at work.

    Args:
        output_size: P, or bins along y and x.
        scales: of the levels, see :func:`gn_det.layers.pyramid_roi_align`.
        sampling_ratio: likewise.
        pooler_type: "ROIAlignV2", or "ROIAlign" with pixel centers at 0; or one of Detectron2's
            others.
        **kwargs: Detectron2's ``canonical_box_size`` and ``canonical_level``.
    """

    level_poolers: Any  # a ModuleList of ROIAlign

    def __init__(
        self,
        output_size: int | tuple[int, int],
        scales: Sequence[float],
        sampling_ratio: int,
        pooler_type: str,
        **kwargs: Any,
    ):
        super().__init__(output_size, scales, sampling_ratio, pooler_type, **kwargs)
        self.aligns = pooler_type in ("ROIAlign", "ROIAlignV2")
        if self.aligns:
            self.level_poolers = nn.ModuleList(
                ROIAlign(p.output_size, p.spatial_scale, p.sampling_ratio, p.aligned)
                for p in self.level_poolers
            )

    def forward(self, x: list[torch.Tensor], box_lists: list[Boxes]) -> torch.Tensor:
        """Return (R, C, P, P), the RoIs of all images one after the other.

        Args:
            x: The features (N, C, H, W) of each level.
            box_lists: The boxes of each of the N images, in its pixels. There may be none.
        """
        if not (self.aligns and box_lists and x[0].device.type == "cpu") or _is_traced():
            return super().forward(x, box_lists)
        rois = poolers.convert_boxes_to_pooler_format(box_lists)
        levels = poolers.assign_boxes_to_levels(
            box_lists, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        )
        first = self.level_poolers[0]
        scales = [pooler.spatial_scale for pooler in self.level_poolers]
        return pyramid_roi_align(
            x, rois, levels, scales, self.output_size, first.sampling_ratio, first.aligned
        )


def pooler_from_cfg(node: CfgNode, features: Sequence[ShapeSpec]) -> ROIPooler | None:
    """Build the pooler of a head, None where it has none.

    Args:
        node: The keys of the head, such as ``cfg.MODEL.ROI_BOX_HEAD``.
        features: The shapes of the levels; their strides are read.
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
    # Python's control flow over the RoIs would be frozen into the trace
    return torch.jit.is_tracing() or torch.compiler.is_compiling()
