"""Detectron2's ROIPooler with gn_det's RoIAlign.

Shapes:
    N: images
    R: RoIs of all images
    C: channels
    H, W: height and width of a level
    P: bins of a RoI along one side
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2 import layers
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import poolers
from detectron2.structures import Boxes
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from gn_det.layers import pyramid_roi_align
from gn_det.layers.kernels.roi_align import KernelError, assign_levels, why_not_roi_align

from .scripting import renamed

__all__ = ["ROIAlign", "ROIPooler", "pooler_from_cfg"]


class ROIAlign(layers.ROIAlign):
    """Detectron2's RoIAlign of one level, in float32 (float64 for float64 features).

    Detectron2 rounds boxes to the dtype of the features. For bfloat16 this moves coordinates above
    512 by up to 2 pixels. Here boxes are not rounded, and sums are float32 on every device.
    """

    forward_standard = renamed(layers.ROIAlign.forward, "forward_standard")

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Return a tensor of shape (R, C, P, P) with the dtype of ``input``.

        Args:
            input: The features of the level, of shape (N, C, H, W).
            rois: The image index and box of each RoI, of shape (R, 5).
        """
        wide = input if input.dtype == torch.float64 else input.float()
        return self.forward_standard(wide, rois).to(input.dtype)


class ROIPooler(poolers.ROIPooler):
    """Detectron2's pooler with a faster and more precise RoIAlign.

    All levels are pooled by one operation that keeps the memory format of the features.
    (Detectron2 writes the RoIs of each level into one contiguous tensor, whose gradient is copied
    once per level.) On a GPU nothing waits: neither for the number of RoIs of a level, nor for the
    check of the boxes, whose result is read when the gradient is computed. Detectron2's code runs
    in a traced or compiled model, for poolers other than RoIAlign, and on a GPU where Triton
    kernels cannot.

    Args:
        output_size: The number of bins P, or the numbers along y and x.
        scales: The scale of each level relative to the image, 1 / stride.
        sampling_ratio: The number of samples of a bin along each axis; 0 for one sample per pixel.
        pooler_type: "ROIAlignV2" (pixel centers at 0.5), "ROIAlign" (pixel centers at 0), or
            another of Detectron2's names.
        **kwargs: Detectron2's ``canonical_box_size`` and ``canonical_level``.
    """

    forward_standard = renamed(poolers.ROIPooler.forward, "forward_standard")

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

        Raises:
            FloatingPointError: A box is NaN or infinite; the message names image and box.
            ValueError: A box is turned inside out; the message names image and box.
        """
        if torch.jit.is_scripting():
            return self.forward_standard(x, box_lists)
        if not box_lists or _is_traced():
            return self.forward_standard(x, box_lists)
        return self._pool(x, box_lists)

    def _pool(self, x: list[torch.Tensor], box_lists: list[Boxes]) -> torch.Tensor:
        # not in forward: TorchScript reads all of that
        if self.is_roi_align and len(box_lists) == len(x[0]) and not why_not_roi_align(x):
            try:
                return self._pool_by_kernels(x, box_lists)
            except KernelError:
                pass  # the kernels are off from now on
        rois = poolers.convert_boxes_to_pooler_format(box_lists)
        _check_rois(rois)
        if not (self.is_roi_align and x[0].device.type == "cpu"):
            return self.forward_standard(x, box_lists)
        levels = poolers.assign_boxes_to_levels(
            box_lists, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        )
        return self._pool_levels(x, rois, levels)

    def _pool_by_kernels(self, x: list[torch.Tensor], box_lists: list[Boxes]) -> torch.Tensor:
        rois = _rois_without_waiting(box_lists)
        levels, first_bad = assign_levels(
            rois, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        )
        out = self._pool_levels(x, rois, levels)
        _check_rois_later(rois, first_bad, out)
        return out

    def _pool_levels(
        self, x: list[torch.Tensor], rois: torch.Tensor, levels: torch.Tensor
    ) -> torch.Tensor:
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


def _rois_without_waiting(box_lists: list[Boxes]) -> torch.Tensor:
    """Return the image index and box of each RoI; the sizes that fill the index are the host's.

    Args:
        box_lists: The boxes of each image.
    """
    boxes = [of_image.tensor.detach() for of_image in box_lists]
    counts = [len(of_image) for of_image in boxes]
    rois = boxes[0].new_empty(sum(counts), 5)
    torch.cat(boxes, out=rois[:, 1:])
    for image, of_image in enumerate(rois[:, 0].split(counts)):
        of_image.fill_(image)
    return rois


def _check_rois(rois: torch.Tensor) -> None:
    """Check that RoIs are boxes. RoIAlign makes zeros, or anything, of what is none.

    Args:
        rois: The image index and the box (x0, y0, x1, y1) of each RoI, of shape (R, 5), in the
            order of the images. A box may be empty. Boxes with an angle, of shape (R, 6), pass.

    Raises:
        FloatingPointError: A RoI is NaN or infinite.
        ValueError: A RoI is turned inside out.
    """
    if rois.shape[1] != 5 or rois.is_meta:
        return
    size = rois[:, 3:] - rois[:, 1:3]
    good = (size >= 0) & (size < math.inf)  # in one look: a GPU waits once
    if not good.all():
        raise _bad_roi(rois, int((~good.all(dim=1)).nonzero()[0]))


def _check_rois_later(rois: torch.Tensor, first_bad: torch.Tensor, out: torch.Tensor) -> None:
    """Check RoIs as :func:`_check_rois` does, but without waiting for a GPU if that can be.

    In training it can: the result arrives on the host while the heads run, and is read when the
    gradient comes to ``out``. So the error is raised before weights change. Without a gradient
    there is no later, and the result is read at once.

    Args:
        rois: See :func:`_check_rois`.
        first_bad: The index of the first RoI that is not a box, of shape (1,); R if there is none.
        out: The pooled features.
    """
    if isinstance(first_bad, FakeTensor):
        return

    def check() -> None:
        if int(first_bad) < len(rois):
            raise _bad_roi(rois, int(first_bad))

    if not out.requires_grad:
        check()
        return
    arrived = None
    if first_bad.is_cuda:
        first_bad = first_bad.to("cpu", non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()

    def check_arrived(gradient: torch.Tensor) -> None:
        if arrived is not None:
            arrived.synchronize()  # for the forward up to here alone: what was sent later goes on
        check()

    out.register_hook(check_arrived)


def _bad_roi(rois: torch.Tensor, row: int) -> FloatingPointError | ValueError:
    image, *box = rois[row].tolist()
    number = row - int((rois[:, 0] == image).nonzero()[0])
    what = (
        f"Box {number} of image {int(image)} of the batch is {box} (both numbers count from 0; in "
        "training among the boxes that were drawn)"
    )
    if not all(map(math.isfinite, box)):
        return FloatingPointError(f"{what}: not finite. Look at what made this proposal.")
    return ValueError(
        f"{what}: turned inside out. A box is x0, y0, x1, y1 in pixels, with x0 <= x1 and "
        "y0 <= y1. Look at what made this proposal: Boxes.clip and Boxes.nonempty of Detectron2 "
        "leave out what is no box."
    )
