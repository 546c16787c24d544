"""Feature pyramid on a ResNet or VGG, with ``MODEL.FPN.NORM`` on lateral and output convolutions.

Shapes: N images, C channels, H x W pixels of the level.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone, fpn
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from .activation_checkpointing import (
    ActivationCheckpointMixin,
    apply_norm_and_activation,
    recompute,
    set_memory,
    tag_recomputable,
)
from .channels_last import to_channels_last
from .norms import norm_from_cfg
from .resnet import build_gn_resnet_backbone
from .vgg import build_gn_vgg_backbone
from .weight_standardization import convolve, standardize_convs

__all__ = ["FPN", "build_gn_resnet_fpn_backbone", "build_gn_vgg_fpn_backbone"]


class FPN(ActivationCheckpointMixin, fpn.FPN):
    """Detectron2's FPN, which obeys ``MODEL.GN.MEMORY``."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return p2 to p6 of a batch of images (N, C, H, W)."""
        mode = self.active_mode()
        if mode == "standard":
            return super().forward(x)
        bottom_up = self.bottom_up(x)
        features = [bottom_up[name] for name in reversed(self.in_features)]
        make = self._lean_pyramid if mode == "lean" else partial(recompute, self._pyramid)
        results = list(make(*features))[::-1]
        if self.top_block is not None:
            source = self.top_block.in_feature
            if source in bottom_up:
                results += self.top_block(bottom_up[source])
            else:
                results += self.top_block(results[self._out_features.index(source)])
        return dict(zip(self._out_features, results))

    def _pyramid(self, *features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        laterals = [convolve(conv, x) for conv, x in zip(self.lateral_convs, features)]
        outputs = self._top_down(*laterals)
        return tuple(
            apply_norm_and_activation(conv, x) for conv, x in zip(self.output_convs, outputs)
        )

    def _lean_pyramid(self, *features: torch.Tensor) -> list[torch.Tensor]:
        """Keep what the convolutions give; the RPN head recomputes the norms of the outputs.

        The output convolutions of the small levels, a quarter of the work, are recomputed too.
        """
        laterals = [convolve(conv, x) for conv, x in zip(self.lateral_convs, features)]
        outputs = recompute(self._top_down, *laterals)
        return [
            tag_recomputable(partial(apply_norm_and_activation, conv), x)
            for conv, x in zip(self.output_convs, outputs)
        ]

    def _top_down(self, *laterals: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs of the levels before their norms, lowest resolution first.

        Args:
            laterals: The lateral convolutions of the levels, without their norms.
        """
        outputs, above = [], None
        for lateral_conv, output_conv, x in zip(self.lateral_convs, self.output_convs, laterals):
            x = apply_norm_and_activation(lateral_conv, x)
            if above is not None:
                x = x + F.interpolate(above, scale_factor=2.0, mode="nearest")
                if self._fuse_type == "avg":
                    x /= 2
            outputs.append(convolve(output_conv, x))
            above = x
        return tuple(outputs)


@BACKBONE_REGISTRY.register()
def build_gn_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build Detectron2's FPN on :func:`build_gn_resnet_backbone`.

    ``MODEL.FPN.NORM`` may be any norm by name; with one, the convolutions of the pyramid have no
    bias. ``MODEL.GN.WEIGHT_STANDARDIZATION``, ``MODEL.GN.MEMORY`` and ``MODEL.CHANNELS_LAST`` are
    obeyed. Features are called p2 to p6, by the logarithm of their strides; p2 to p5 where the
    pyramid ends at res4 (``MODEL.FPN.IN_FEATURES`` and ``MODEL.RESNETS.OUT_FEATURES``).

    Args:
        cfg: A config with our keys.
        input_shape: The shape of the images; its ``channels`` are read.
    """
    return _build_fpn(cfg, build_gn_resnet_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_gn_vgg_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build Detectron2's FPN on :func:`gn_det.modeling.build_gn_vgg_backbone`.

    With ``MODEL.FPN.IN_FEATURES`` and ``MODEL.VGG.OUT_FEATURES`` vgg3, vgg4, vgg5 and pool5 the
    features have the strides of a ResNet's p2 to p6.

    Args:
        cfg: A config with our keys.
        input_shape: The shape of the images; its ``channels`` are read.
    """
    return _build_fpn(cfg, build_gn_vgg_backbone(cfg, input_shape))


def _build_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    top_block = LastLevelMaxPool()
    shapes = bottom_up.output_shape()
    last = shapes[cfg.MODEL.FPN.IN_FEATURES[-1]]
    top_block.in_feature = f"p{int(math.log2(last.stride))}"  # Detectron2 has p5 only
    pyramid = FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=norm_from_cfg(cfg, cfg.MODEL.FPN.NORM),
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
    if cfg.MODEL.GN.WEIGHT_STANDARDIZATION:
        standardize_convs(pyramid)
    own_layers = [*pyramid.lateral_convs, *pyramid.output_convs]
    set_memory(pyramid, cfg.MODEL.GN.MEMORY, own_layers)
    if cfg.MODEL.CHANNELS_LAST:
        to_channels_last(pyramid)
    return pyramid
