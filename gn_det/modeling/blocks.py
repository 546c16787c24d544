"""Detectron2's ResNet stem and blocks with activation checkpointing (``MODEL.GN.MEMORY``).

Shapes:
    N: images
    C: channels
    H, W: height and width of the features
"""

from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from detectron2.modeling.backbone import resnet

from .activation_checkpointing import ActivationCheckpointMixin, recompute
from .conv_norm_relu import (
    RELU,
    add_and_activate,
    all_modules,
    apply_convolution,
    apply_norm_and_activation,
    can_fuse,
    norm_and_activation_of,
    norm_then_convolve,
    run_now,
)
from .scripting import renamed

__all__ = ["BasicBlock", "BasicStem", "BottleneckBlock", "DeformBottleneckBlock"]


class CheckpointedBlock(ActivationCheckpointMixin):
    """Mixin for blocks. It comes before Detectron2's class in the bases."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run Detectron2's block, and save for backward what :attr:`memory` says."""
        if torch.jit.is_scripting():
            return self.forward_standard(x)
        mode = self.active_mode()
        if mode == "lean":
            return self.forward_pieces(x, recompute)
        whole = self.forward_pieces if can_fuse(self.children(), x) else self.forward_standard
        if mode == "minimal":
            return recompute(whole, x, modules=all_modules(self.children()))
        return whole(x)

    def forward_standard(self, x: torch.Tensor) -> torch.Tensor:
        """Run Detectron2's block. TorchScript cannot call it by ``super()``."""
        raise NotImplementedError

    def forward_pieces(self, x: torch.Tensor, run: Callable[..., Any] = run_now) -> torch.Tensor:
        """Return the same as ``forward``, with norm and ReLU as one where kernels run.

        Args:
            x: The input of the block.
            run: The function that runs a piece: ``recompute`` for lean mode, or ``run_now``.
        """
        raise NotImplementedError


class BasicStem(CheckpointedBlock, resnet.BasicStem):
    """The stem: a 7x7 convolution and a max pooling."""

    if TYPE_CHECKING:
        conv1: Conv2d

    forward_standard = renamed(resnet.BasicStem.forward, "forward_standard")

    def forward_pieces(self, x: torch.Tensor, run: Callable[..., Any] = run_now) -> torch.Tensor:
        """In lean mode, save the image and the output of the convolution."""
        x = apply_convolution(self.conv1, x)
        return run(self._norm_and_pool, x, modules=norm_and_activation_of(self.conv1))

    def _norm_and_pool(self, x: torch.Tensor) -> torch.Tensor:
        x = apply_norm_and_activation(self.conv1, x, RELU)
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class CheckpointedResidualBlock(CheckpointedBlock):
    """The parts that blocks of two and of three convolutions share."""

    if TYPE_CHECKING:
        conv1: Conv2d
        conv2: Conv2d
        shortcut: Conv2d | None

    def forward_pieces(self, x: torch.Tensor, run: Callable[..., Any] = run_now) -> torch.Tensor:
        """In lean mode, save the input and the outputs of the first two convolutions."""
        conv1, conv2 = self.conv1, self.conv2
        inner = norm_then_convolve(conv1, conv2, apply_convolution(conv1, x), run, RELU)
        others = all_modules(layer for layer in self.children() if layer not in (conv1, conv2))
        used = chain(norm_and_activation_of(conv2), others)
        return run(self._norm2_to_end, inner, x, modules=used)

    def _norm2_to_end(self, inner: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output, for the output of its second convolution and its input."""
        raise NotImplementedError

    def _add_shortcut(self, conv: Conv2d, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the block.

        Args:
            conv: The last convolution of the block.
            out: The output of this convolution, without norm.
            x: The input of the block.
        """
        return add_and_activate(conv, out, lambda: x if self.shortcut is None else self.shortcut(x))


class BottleneckBlock(CheckpointedResidualBlock, resnet.BottleneckBlock):
    """The block of R50 and deeper: a 1x1, a 3x3 and a 1x1 convolution.

    Lean mode saves as much as FrozenBN. The output of the third convolution, which it does not
    save, is two to four times as large as what it saves, and cheap to recompute.
    """

    if TYPE_CHECKING:
        conv3: Conv2d

    forward_standard = renamed(resnet.BottleneckBlock.forward, "forward_standard")

    def _norm2_to_end(self, inner: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        inner = apply_norm_and_activation(self.conv2, inner, RELU)
        return self._add_shortcut(self.conv3, apply_convolution(self.conv3, inner), x)


class BasicBlock(CheckpointedResidualBlock, resnet.BasicBlock):
    """The block of R18 and R34: two 3x3 convolutions.

    Lean mode saves the outputs of both; FrozenBN saves only the first. To recompute the second, a
    3x3 convolution, would cost a sixth of the training time.
    """

    forward_standard = renamed(resnet.BasicBlock.forward, "forward_standard")

    def _norm2_to_end(self, inner: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self._add_shortcut(self.conv2, inner, x)


class DeformBottleneckBlock(CheckpointedBlock, resnet.DeformBottleneckBlock):
    """A bottleneck with a deformable convolution. Its norm is inside that layer: no lean mode."""

    forward_standard = renamed(resnet.DeformBottleneckBlock.forward, "forward_standard")

    def forward_pieces(self, x: torch.Tensor, run: Callable[..., Any] = run_now) -> torch.Tensor:
        """Run Detectron2's block."""
        return self.forward_standard(x)
