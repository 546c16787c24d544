"""Detectron2's ResNet stem and blocks, which obey ``MODEL.GN.MEMORY``.

Shapes: N images, C channels, H x W pixels; C and H x W change with the layer.
"""

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from detectron2.modeling.backbone import resnet

from .activation_checkpointing import ActivationCheckpointMixin, recompute
from .weight_standardization import convolve

__all__ = ["BasicBlock", "BasicStem", "BottleneckBlock", "DeformBottleneckBlock"]


class RecomputingBlock(ActivationCheckpointMixin):
    """Mixin for blocks. It comes before Detectron2's class in the bases."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the block as its base class does, keeping what :attr:`memory` says."""
        mode = self.active_mode()
        if mode == "lean":
            return self.lean_forward(x)
        forward = super().forward  # type: ignore[misc]  # Detectron2's block is the other base
        return recompute(forward, x) if mode == "minimal" else forward(x)

    def lean_forward(self, x: torch.Tensor) -> torch.Tensor:
        """Do the same work and keep less."""
        raise NotImplementedError


class BasicStem(RecomputingBlock, resnet.BasicStem):
    """The 7x7 convolution and the pooling before the first stage."""

    def lean_forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the image and the convolution's output."""
        return recompute(self._pool, convolve(self.conv1, x))

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu_(self.conv1.norm(x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class Residual(RecomputingBlock):
    """What blocks of two and of three convolutions share."""

    conv1: Conv2d
    conv2: Conv2d
    shortcut: Conv2d | None

    def _second(self, inner: torch.Tensor) -> torch.Tensor:
        """Take the first convolution's output to the second's."""
        return convolve(self.conv2, F.relu_(self.conv1.norm(inner)))

    def _add(self, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """End a block on input x, in place."""
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BottleneckBlock(Residual, resnet.BottleneckBlock):
    """Blocks of R50 and deeper: 1x1, 3x3 and 1x1 convolution."""

    def lean_forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the input and the outputs of the first two convolutions, as much as FrozenBN.

        The third output would be two to four times their size, and is cheap to recompute.
        """
        inner = recompute(self._second, convolve(self.conv1, x))
        return recompute(self._third, inner, x)

    def _third(self, inner: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self._add(self.conv3(F.relu_(self.conv2.norm(inner))), x)


class BasicBlock(Residual, resnet.BasicBlock):
    """Blocks of R18 and R34: two 3x3 convolutions."""

    def lean_forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the input and the outputs of both convolutions: FrozenBN has no need of the last.

        To recompute that 3x3 convolution would cost a sixth of the training time.
        """
        inner = recompute(self._second, convolve(self.conv1, x))
        return recompute(self._last, inner, x)

    def _last(self, inner: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self._add(self.conv2.norm(inner), x)


class DeformBottleneckBlock(RecomputingBlock, resnet.DeformBottleneckBlock):
    """Bottlenecks with a deformable convolution, which holds its norm inside: lean is standard."""

    def lean_forward(self, x: torch.Tensor) -> torch.Tensor:
        """Train as in ``standard``."""
        return resnet.DeformBottleneckBlock.forward(self, x)
