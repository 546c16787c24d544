"""VGG with any norm after every convolution, as the paper compares it (section 4.1, figure 6).

Shapes: N images, C channels, H x W pixels of the stage.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec
from detectron2.layers import get_norm as make_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from fvcore.nn import weight_init
from torch import nn

from gn_det.config import ConfigError

from .activation_checkpointing import ActivationCheckpointMixin, recompute, set_memory
from .channels_last import to_channels_last
from .conv_norm_relu import all_modules, can_fuse, run_conv_chain, run_now
from .from_cfg import gn_config
from .norms import NormBuilder, as_builder, norm_from_cfg
from .weight_standardization import standardize_convs

__all__ = ["NUM_CONVS", "VGG", "build_gn_vgg_backbone", "make_vgg_stages"]

# convolutions of vgg1 to vgg5: A, B, D and E of Simonyan & Zisserman's table 1
NUM_CONVS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
_WIDTHS = (1, 2, 4, 8, 8)  # of vgg1 to vgg5, times BASE_CHANNELS


class VGG(ActivationCheckpointMixin, Backbone):
    """Stages of 3x3 convolutions, each followed by a 2x2 pooling.

    ``vgg1`` to ``vgg5`` are the outputs of the stages, of stride 1 to 16, before they are pooled
    (``vgg5`` is the paper's conv5_3); ``pool5`` is the pooled ``vgg5``, of stride 32.

    Args:
        stages: The layers of vgg1, vgg2 and so on. What no feature needs is dropped.
        out_features: The names of the features to be returned.
        freeze_at: The number of stages at the beginning that are not trained.

    Raises:
        ConfigError: There is no such feature.
    """

    def __init__(
        self, stages: list[list[Conv2d]], out_features: list[str], freeze_at: int = 0
    ) -> None:
        super().__init__()
        names = [f"vgg{number}" for number in range(1, len(stages) + 1)]
        last = f"pool{len(stages)}"
        wrong = [name for name in out_features if name not in (*names, last)]
        if wrong or not out_features:
            raise ConfigError(
                f"MODEL.VGG.OUT_FEATURES is {out_features}; known are {', '.join((*names, last))}."
            )
        needed = max((*names, last).index(name) for name in out_features) + 1
        self.stage_names = names[:needed]
        self._out_features = list(out_features)
        self._out_feature_strides, self._out_feature_channels = {}, {}
        for number, (name, layers) in enumerate(zip(self.stage_names, stages)):
            self.add_module(name, nn.Sequential(*layers))
            self._out_feature_strides[name] = 2**number
            self._out_feature_channels[name] = layers[-1].out_channels
        self._out_feature_strides[last] = 2 ** len(stages)
        self._out_feature_channels[last] = stages[-1][-1].out_channels
        self._last = last
        self._freeze(freeze_at)

    def _freeze(self, freeze_at: int) -> None:
        for name in self.stage_names[:freeze_at]:
            stage = getattr(self, name)
            for parameter in stage.parameters():
                parameter.requires_grad = False
            FrozenBatchNorm2d.convert_frozen_batchnorm(stage)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the features of images (N, C, H, W)."""
        outputs = {}
        for name, stage in self.named_children():
            # TorchScript compiles only the call of a layer
            if torch.jit.is_scripting():
                outputs[name], x = _with_pooled(stage(x))
            else:
                outputs[name], x = self._stage(stage, x)
        outputs[self._last] = x
        return {name: outputs[name] for name in self._out_features}

    def _stage(self, layers: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a stage's output, and the same pooled."""
        mode = self.active_mode([layers])
        if mode == "standard" and not can_fuse([layers, *layers.children()], x):
            return _with_pooled(layers(x))
        run = run_now if mode == "standard" else recompute
        chain = partial(run_conv_chain, list(layers.children()), [_with_pooled], run=run)
        return recompute(chain, x, modules=all_modules([layers])) if mode == "minimal" else chain(x)


def _with_pooled(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x, F.max_pool2d(x, kernel_size=2, stride=2)


def make_vgg_stages(
    depth: int, norm: NormBuilder, base_channels: int, in_channels: int
) -> list[list[Conv2d]]:
    """Build the convolutions of vgg1 to vgg5; see :func:`build_gn_vgg_backbone` for the arguments.

    Without a norm they have a bias. He's initialization, as in the paper.

    Raises:
        ConfigError: The depth is unknown.
        ValueError: See :class:`gn_det.layers.GroupNorm`.
    """
    if depth not in NUM_CONVS:
        raise ConfigError(f"MODEL.VGG.DEPTH is {depth}; known are {sorted(NUM_CONVS)}.")
    stages = []
    for count, width in zip(NUM_CONVS[depth], _WIDTHS):
        stage = []
        for _ in range(count):
            channels = base_channels * width
            conv = Conv2d(
                in_channels,
                channels,
                kernel_size=3,
                padding=1,
                bias=norm == "",
                norm=make_norm(norm, channels),
                activation=nn.ReLU(),
            )
            weight_init.c2_msra_fill(conv)
            stage.append(conv)
            in_channels = channels
        stages.append(stage)
    return stages


def _vgg_from_cfg(cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
    gn, v = gn_config(cfg), cfg.MODEL.VGG
    return {
        "in_channels": input_shape.channels,
        "depth": v.DEPTH,
        "norm": norm_from_cfg(cfg, v.NORM),
        "base_channels": v.BASE_CHANNELS,
        "out_features": v.OUT_FEATURES,
        "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        "weight_standardization": gn.WEIGHT_STANDARDIZATION,
        "memory": gn.MEMORY,
        "channels_last": cfg.MODEL.CHANNELS_LAST,
    }


@BACKBONE_REGISTRY.register()
@configurable(from_config=_vgg_from_cfg)
def build_gn_vgg_backbone(
    *,
    depth: int,
    norm: NormBuilder,
    out_features: Sequence[str],
    in_channels: int = 3,
    base_channels: int = 64,
    freeze_at: int = 0,
    weight_standardization: bool = False,
    memory: str = "standard",
    channels_last: bool = False,
) -> VGG:
    """Build a VGG-11, -13, -16 or -19 without its fully connected layers.

    It takes arguments, as a LazyConfig gives them, or ``(cfg, input_shape)``: then the keys of
    ``MODEL.VGG`` and ``MODEL.GN``, ``MODEL.BACKBONE.FREEZE_AT`` and ``MODEL.CHANNELS_LAST`` are
    obeyed.

    Args:
        depth: The depth of the network, one of :data:`NUM_CONVS`.
        norm: The norm after every convolution: a callable ``channels -> nn.Module``, such as
            :func:`gn_det.modeling.get_norm` returns, or a name; "" for none.
        out_features: The names of the features to return: ``["vgg5"]`` makes a backbone of one
            feature map, of stride 16; see :class:`VGG`.
        in_channels: The channels of the image.
        base_channels: The channels of vgg1; vgg2 to vgg5 have 2, 4, 8 and 8 times as many.
        freeze_at: The number of stages that are not trained, from vgg1 on.
        weight_standardization: Whether the weights of the convolutions are standardized.
        memory: What is saved for backward, a value of ``MODEL.GN.MEMORY``.
        channels_last: Whether the network works in PyTorch's channels_last layout.

    Raises:
        ConfigError, ValueError: See :class:`VGG` and :func:`make_vgg_stages`.
    """
    stages = make_vgg_stages(depth, as_builder(norm), base_channels, in_channels)
    backbone = VGG(stages, list(out_features), freeze_at)
    if weight_standardization:
        standardize_convs(backbone)
    set_memory(backbone, memory)
    if channels_last:
        to_channels_last(backbone)
    return backbone
