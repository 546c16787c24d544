"""ResNet-18 and -34 inflated to clips, as the paper's section 4.4 has it for a deeper one.

A convolution of every other block, and the stem's, gets a kernel of 3 in time (I3D: Carreira &
Zisserman 2017, Wang et al. 2018); each stage but the first halves height and width, and time as
well. GN, LN and IN take their statistics over (T, H, W) and the channels of their group.

Shapes: N clips, C channels, T frames, H x W pixels.
"""

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import ResNet
from fvcore.nn import weight_init
from torch import nn

from gn_det.config import ConfigError

from .from_cfg import gn_config
from .norms import NormBuilder, norm_from_cfg, zero_init
from .resnet import NUM_BLOCKS

__all__ = ["InflatedResNet", "build_gn_inflated_resnet_backbone"]


class Conv3d(nn.Conv3d):
    """A convolution without bias, and a norm; the state dict is that of Detectron2's ``Conv2d``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int, int],
        stride: tuple[int, int, int],
        norm: NormBuilder,
    ):
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        super().__init__(in_channels, out_channels, kernel, stride, padding, bias=False)
        weight_init.c2_msra_fill(self)
        self.norm = None if isinstance(norm, str) else norm(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, C', T', H', W')."""
        x = super().forward(x)
        return x if self.norm is None else self.norm(x)


class InflatedStem(CNNBlockBase):
    """Convolution of 3x7x7 and pooling of 1x3x3: all frames, a quarter of height and width."""

    def __init__(self, in_channels: int, out_channels: int, norm: NormBuilder):
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = Conv3d(in_channels, out_channels, (3, 7, 7), (1, 2, 2), norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, C', T, H / 4, W / 4)."""
        x = F.relu_(self.conv1(x))
        # frame by frame: on a GPU, the backward pass of max_pool3d adds in no fixed order
        frames = F.max_pool2d(x.flatten(1, 2), kernel_size=3, stride=2, padding=1)
        return frames.unflatten(1, x.shape[1:3])


class InflatedBlock(CNNBlockBase):
    """Two convolutions and a shortcut, the first one of ``time`` frames."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, time: int, norm: NormBuilder
    ):
        super().__init__(in_channels, out_channels, stride)
        strides = (stride, stride, stride)
        self.shortcut = None
        if in_channels != out_channels or stride > 1:
            self.shortcut = Conv3d(in_channels, out_channels, (1, 1, 1), strides, norm)
        self.conv1 = Conv3d(in_channels, out_channels, (time, 3, 3), strides, norm)
        self.conv2 = Conv3d(out_channels, out_channels, (1, 3, 3), (1, 1, 1), norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, C', T / stride, H / stride, W / stride)."""
        out = self.conv2(F.relu_(self.conv1(x)))
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class InflatedResNet(ResNet):
    """Detectron2's ResNet of such blocks, which takes clips."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the features by name.

        Args:
            x: The clips (N, C, T, H, W).
        """
        outputs = {}
        for name in ("stem", *self.stage_names):
            x = getattr(self, name)(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs


@BACKBONE_REGISTRY.register()
def build_gn_inflated_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> InflatedResNet:
    """Build an inflated ResNet-18 or -34 with ``MODEL.RESNETS.NORM`` after every convolution.

    Of ``MODEL.RESNETS`` it reads DEPTH, NORM, STEM_OUT_CHANNELS, RES2_OUT_CHANNELS (any) and
    OUT_FEATURES, of ``MODEL.GN`` the groups, eps and ZERO_INIT_RESIDUAL.

    Args:
        cfg: A config with our keys.
        input_shape: The shape of the frames; its ``channels`` are read.

    Raises:
        ConfigError: The depth is another one, or a key has a value that is for images alone.
        ValueError: The norm is not for clips, or the groups do not divide the channels.
    """
    gn, r = gn_config(cfg), cfg.MODEL.RESNETS
    _check(cfg)
    norm = norm_from_cfg(cfg, r.NORM, clips=True)
    stem = InflatedStem(input_shape.channels, r.STEM_OUT_CHANNELS, norm)
    stages, in_channels = [], r.STEM_OUT_CHANNELS
    for i, num_blocks in enumerate(NUM_BLOCKS[r.DEPTH]):
        out_channels = r.RES2_OUT_CHANNELS * 2**i
        blocks = ResNet.make_stage(
            InflatedBlock,
            num_blocks,
            in_channels=in_channels,
            out_channels=out_channels,
            stride_per_block=[1 if i == 0 else 2] + [1] * (num_blocks - 1),
            time_per_block=[3 if number % 2 == 0 else 1 for number in range(num_blocks)],
            norm=norm,
        )
        if gn.ZERO_INIT_RESIDUAL:
            for block in blocks:
                zero_init(block.conv2.norm)
        stages.append(blocks)
        in_channels = out_channels
    return InflatedResNet(stem, stages, out_features=r.OUT_FEATURES)


def _check(cfg: CfgNode) -> None:
    m, name = cfg.MODEL, "MODEL.BACKBONE.NAME build_gn_inflated_resnet_backbone"
    if m.RESNETS.DEPTH not in (18, 34):
        raise ConfigError(f"{name} has MODEL.RESNETS.DEPTH 18 or 34, not {m.RESNETS.DEPTH}.")
    images_alone = {
        "MODEL.BACKBONE.FREEZE_AT": (m.BACKBONE.FREEZE_AT, 0),
        "MODEL.GN.MEMORY": (m.GN.MEMORY, "standard"),
        "MODEL.GN.WEIGHT_STANDARDIZATION": (m.GN.WEIGHT_STANDARDIZATION, False),
        "MODEL.CHANNELS_LAST": (m.CHANNELS_LAST, False),
    }
    for key, (value, wanted) in images_alone.items():
        if value != wanted:
            raise ConfigError(f"{name} needs {key} {wanted}, got {value}.")
