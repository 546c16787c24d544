"""FPN on a ResNet or VGG, with ``MODEL.FPN.NORM`` on lateral and output convolutions.

Shapes:
    N: images
    C: channels
    H, W: height and width of the image or of a level
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone, fpn
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from gn_det.layers.group_norm import has_kernel

from .activation_checkpointing import (
    ActivationCheckpointMixin,
    recompute,
    set_memory,
    tag_recomputable,
)
from .channels_last import to_channels_last
from .conv_norm_relu import (
    all_modules,
    apply_convolution,
    apply_norm_and_activation,
    can_fuse,
    convolution_of,
    norm_and_activation_of,
)
from .norms import NormBuilder, as_builder, norm_from_cfg
from .resnet import build_gn_resnet_backbone
from .scripting import renamed
from .vgg import build_gn_vgg_backbone
from .weight_standardization import standardize_convs

__all__ = ["FPN", "build_gn_resnet_fpn_backbone", "build_gn_vgg_fpn_backbone"]


class FPN(ActivationCheckpointMixin, fpn.FPN):
    """Detectron2's FPN with activation checkpointing (``MODEL.GN.MEMORY``).

    Args:
        norm: The norm of the pyramid's convolutions: a callable ``channels -> nn.Module``, or a
            name; "" for none.
        weight_standardization: Whether the weights of the pyramid's convolutions are standardized.
        memory: The mode of activation checkpointing of the pyramid, one of
            :data:`gn_det.modeling.activation_checkpointing.MEMORY_MODES`.
        channels_last: Whether pyramid and backbone work in channels_last memory format.
        **kwargs: The arguments of Detectron2's class: ``bottom_up``, ``in_features``,
            ``out_channels``, ``top_block``, ``fuse_type``.
    """

    if TYPE_CHECKING:
        bottom_up: Backbone
        in_features: list[str]
        lateral_convs: list[Conv2d]
        output_convs: list[Conv2d]
        top_block: LastLevelMaxPool | None
        _out_features: list[str]

    forward_standard = renamed(fpn.FPN.forward, "forward_standard")

    def __init__(
        self,
        *,
        norm: NormBuilder = "",
        weight_standardization: bool = False,
        memory: str = "standard",
        channels_last: bool = False,
        **kwargs: Any,
    ):
        super().__init__(norm=as_builder(norm), **kwargs)
        if isinstance(self.top_block, LastLevelMaxPool):
            # Detectron2's class assumes p5
            self.top_block.in_feature = self._out_features[len(self.in_features) - 1]
        if weight_standardization:
            for conv in self._own_layers():
                standardize_convs(conv)
        set_memory(self, memory, self._own_layers())
        if channels_last:
            to_channels_last(self)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return p2 to p6 of a batch of images of shape (N, C, H, W)."""
        if torch.jit.is_scripting():
            return self.forward_standard(x)
        mode = self.active_mode(self._own_layers())
        if mode == "standard" and not can_fuse(self._own_layers(), x):
            return self.forward_standard(x)
        return self.forward_pieces(x, mode)

    def _own_layers(self) -> list[Conv2d]:
        return [*self.lateral_convs, *self.output_convs]

    def forward_pieces(self, x: torch.Tensor, mode: str) -> dict[str, torch.Tensor]:
        """Return the same as ``forward``, with less saved for backward in lean and minimal mode.

        Args:
            x: The images, of shape (N, C, H, W).
            mode: The mode of this forward pass.
        """
        bottom_up = self.bottom_up(x)
        features = [bottom_up[name] for name in reversed(self.in_features)]
        if mode == "standard":
            outputs = self._lateral_to_output(*features)
        elif mode == "lean":
            outputs = self._forward_lean(*features)
        else:
            used = all_modules(self._own_layers())
            outputs = recompute(self._lateral_to_output, *features, modules=used)
        results = list(outputs)[::-1]
        if self.top_block is not None:
            source = self.top_block.in_feature
            if source in bottom_up:
                results += self.top_block(bottom_up[source])
            else:
                results += self.top_block(results[self._out_features.index(source)])
        return dict(zip(self._out_features, results))

    def _lateral_to_output(self, *features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        laterals = [apply_convolution(conv, x) for conv, x in zip(self.lateral_convs, features)]
        outputs = self._top_down(*laterals)
        return tuple(
            apply_norm_and_activation(conv, x) for conv, x in zip(self.output_convs, outputs)
        )

    def _forward_lean(self, *features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Save the outputs of the convolutions; the RPN head recomputes the norms of p2 to p5.

        Backward runs the output convolutions of the small levels again, a quarter of their work.
        """
        laterals = [apply_convolution(conv, x) for conv, x in zip(self.lateral_convs, features)]
        used = [m for conv in self.lateral_convs for m in norm_and_activation_of(conv)]
        used += [m for conv in self.output_convs for m in convolution_of(conv)]
        outputs = recompute(self._top_down, *laterals, modules=used)
        return tuple(
            tag_recomputable(
                partial(apply_norm_and_activation, conv), x, norm_and_activation_of(conv)
            )
            for conv, x in zip(self.output_convs, outputs)
        )

    def _top_down(self, *laterals: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs of the output convolutions, lowest resolution first, without norm.

        Args:
            laterals: The outputs of the lateral convolutions, lowest resolution first, without
                norm.
        """
        outputs, above = [], None
        for lateral_conv, output_conv, x in zip(self.lateral_convs, self.output_convs, laterals):
            x = apply_norm_and_activation(lateral_conv, x)
            if above is not None:
                x = _add_upsampled(x, above)
                if self._fuse_type == "avg":
                    x = x / 2
            outputs.append(apply_convolution(output_conv, x))
            above = x
        return tuple(outputs)


def _add_upsampled(x: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
    """Return ``x`` plus the level above it, whose pixels are repeated along height and width.

    Args:
        x: The features of a level, of shape (N, C, 2H, 2W).
        above: The features of the level above, of shape (N, C, H, W).
    """
    height, width = above.shape[2:]
    if has_kernel(x) and x.shape[2:] == (2 * height, 2 * width):
        return _AddUpsampled.apply(x, above)
    return x + F.interpolate(above, scale_factor=2.0, mode="nearest")


class _AddUpsampled(torch.autograd.Function):
    """The sum without the upsampled copy, which autocast on a GPU would make float32 as well.

    On a CPU it is no faster, and autograd's own gradient of the broadcast is slow everywhere.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
        pairs = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        return (pairs + above[:, :, :, None, :, None]).view(x.shape)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return dy, F.avg_pool2d(dy, kernel_size=2, divisor_override=1)


@BACKBONE_REGISTRY.register()
def build_gn_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build Detectron2's FPN on :func:`build_gn_resnet_backbone`.

    ``MODEL.FPN.NORM`` is the name of any norm; with a norm, the convolutions of the FPN have no
    bias. ``MODEL.GN.WEIGHT_STANDARDIZATION``, ``MODEL.GN.MEMORY`` and ``MODEL.CHANNELS_LAST``
    apply. The features are p2 to p6, named after the logarithm of their strides. They are p2 to p5
    if the FPN ends at res4 (``MODEL.FPN.IN_FEATURES`` and ``MODEL.RESNETS.OUT_FEATURES``).

    Args:
        cfg: A config with our keys.
        input_shape: The shape of the image, of which only ``channels`` is used.
    """
    return _build_fpn(cfg, build_gn_resnet_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_gn_vgg_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build Detectron2's FPN on :func:`gn_det.modeling.build_gn_vgg_backbone`.

    If ``MODEL.FPN.IN_FEATURES`` and ``MODEL.VGG.OUT_FEATURES`` are vgg3, vgg4, vgg5 and pool5, the
    features have the names and strides of a ResNet's p2 to p6.

    Args:
        cfg: A config with our keys.
        input_shape: The shape of the image, of which only ``channels`` is used.
    """
    return _build_fpn(cfg, build_gn_vgg_backbone(cfg, input_shape))


def _build_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=norm_from_cfg(cfg, cfg.MODEL.FPN.NORM),
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
        weight_standardization=cfg.MODEL.GN.WEIGHT_STANDARDIZATION,
        memory=cfg.MODEL.GN.MEMORY,
        channels_last=cfg.MODEL.CHANNELS_LAST,
    )
