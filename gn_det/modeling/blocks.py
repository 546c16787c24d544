"""Detectron2's ResNet stem and blocks with activation checkpointing (``MODEL.GN.MEMORY``).

Shapes:
    N: images
    C: channels
    H, W: height and width of the features
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from detectron2.modeling.backbone import resnet

from .activation_checkpointing import ActivationCheckpointMixin, recompute
from .weight_standardization import convolve

__all__ = ["BasicBlock", "BasicStem", "BottleneckBlock", "DeformBottleneckBlock"]


class CheckpointedBlock(ActivationCheckpointMixin):
    """Mixin for blocks. It comes before Detectron2's class in the bases."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run Detectron2's block, and save for backward what :attr:`memory` says."""
        mode = self.active_mode()
        if mode == "lean":
            return self.forward_lean(x)
        if mode == "minimal":
            return recompute(super().forward, x)
        return super().forward(x)

    def forward_lean(self, x: torch.Tensor) -> torch.Tensor:
        """Return the same as ``forward``, with less saved for backward."""
        raise NotImplementedError


class BasicStem(CheckpointedBlock, resnet.BasicStem):
    """The stem: a 7x7 convolution and a max pooling."""

    if TYPE_CHECKING:
        conv1: Conv2d

    def forward_lean(self, x: torch.Tensor) -> torch.Tensor:
        """Save the image and the output of the convolution."""
        return recompute(self._norm_and_pool, convolve(self.conv1, x))

    def _norm_and_pool(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu_(self.conv1.norm(x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class CheckpointedResidualBlock(CheckpointedBlock):
    """The parts that blocks of two and of three convolutions share."""

    if TYPE_CHECKING:
        conv1: Conv2d
        conv2: Conv2d
        shortcut: Conv2d | None

    def _norm1_and_conv2(self, x: torch.Tensor) -> torch.Tensor:
        return convolve(self.conv2, F.relu_(self.conv1.norm(x)))

    def _add_shortcut(self, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the block, in place of ``out``, for the block's input ``x``."""
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BottleneckBlock(CheckpointedResidualBlock, resnet.BottleneckBlock):
    """The block of R50 and deeper: a 1x1, a 3x3 and a 1x1 convolution."""

    if TYPE_CHECKING:
        conv3: Conv2d

    def forward_lean(self, x: torch.Tensor) -> torch.Tensor:
        """Save the input and the outputs of the first two convolutions, as much as FrozenBN.

        The output of the third convolution is two to four times as large, and cheap to recompute.
        """
        inner = recompute(self._norm1_and_conv2, convolve(self.conv1, x))
        return recompute(self._norm2_to_end, inner, x)

    def _norm2_to_end(self, inner: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self._add_shortcut(self.conv3(F.relu_(self.conv2.norm(inner))), x)


class BasicBlock(CheckpointedResidualBlock, resnet.BasicBlock):
    """The block of R18 and R34: two 3x3 convolutions."""

    def forward_lean(self, x: torch.Tensor) -> torch.Tensor:
        """Save the input and the outputs of both convolutions; FrozenBN saves only the first.

        To recompute the second, a 3x3 convolution, would cost a sixth of the training time.
        """
        inner = recompute(self._norm1_and_conv2, convolve(self.conv1, x))
        return recompute(self._norm2_to_end, inner, x)

    def _norm2_to_end(self, inner: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self._add_shortcut(self.conv2.norm(inner), x)


class DeformBottleneckBlock(CheckpointedBlock, resnet.DeformBottleneckBlock):
    """A bottleneck with a deformable convolution. Its norm is inside that layer: no lean mode."""

    def forward_lean(self, x: torch.Tensor) -> torch.Tensor:
        """Run Detectron2's block, as in standard mode."""
        return resnet.DeformBottleneckBlock.forward(self, x)
