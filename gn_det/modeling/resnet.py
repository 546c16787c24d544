"""ResNet and ResNeXt with any norm, from Detectron2's own blocks.

Shapes: N images, C channels, H x W pixels.
"""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import ResNet

from gn_det.config import ConfigError

from .activation_checkpointing import set_memory
from .blocks import BasicBlock, BasicStem, BottleneckBlock, DeformBottleneckBlock
from .channels_last import to_channels_last
from .from_cfg import gn_config
from .norms import NormBuilder, as_builder, norm_from_cfg, zero_init
from .weight_standardization import standardize_convs

__all__ = ["NUM_BLOCKS", "build_gn_resnet_backbone", "make_resnet_stage"]

# blocks of res2, res3, res4, res5
NUM_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def _stage_from_cfg(cfg: CfgNode, stage: int | None = None) -> dict[str, Any]:
    """Translate a config into the arguments of :func:`make_resnet_stage`."""
    r, gn = cfg.MODEL.RESNETS, gn_config(cfg)
    args = {
        "depth": r.DEPTH,
        "norm": norm_from_cfg(cfg, r.NORM),
        "stem_out_channels": r.STEM_OUT_CHANNELS,
        "res2_out_channels": r.RES2_OUT_CHANNELS,
        "num_groups": r.NUM_GROUPS,
        "width_per_group": r.WIDTH_PER_GROUP,
        "stride_in_1x1": r.STRIDE_IN_1X1,
        "res5_dilation": r.RES5_DILATION,
        "deform_on_per_stage": r.DEFORM_ON_PER_STAGE,
        "deform_modulated": r.DEFORM_MODULATED,
        "deform_num_groups": r.DEFORM_NUM_GROUPS,
        "zero_init_residual": gn.ZERO_INIT_RESIDUAL,
        "weight_standardization": gn.WEIGHT_STANDARDIZATION,
        "memory": gn.MEMORY,
    }
    return args if stage is None else {"stage": stage, **args}


@configurable(from_config=_stage_from_cfg)
def make_resnet_stage(
    stage: int,
    *,
    depth: int,
    norm: NormBuilder,
    stem_out_channels: int = 64,
    res2_out_channels: int | None = None,
    num_groups: int = 1,
    width_per_group: int = 64,
    stride_in_1x1: bool = False,
    res5_dilation: int = 1,
    deform_on_per_stage: Sequence[bool] = (False,) * 4,
    deform_modulated: bool = False,
    deform_num_groups: int = 1,
    zero_init_residual: bool = False,
    weight_standardization: bool = False,
    memory: str = "standard",
) -> list[CNNBlockBase]:
    """Build the blocks of one stage, from arguments or as ``make_resnet_stage(cfg, stage)``.

    Args:
        stage: The number of the stage, 2 to 5 for res2 to res5.
        depth: The depth of the network, one of :data:`NUM_BLOCKS`.
        norm: The norm after every convolution: a callable ``channels -> nn.Module``, such as
            :func:`gn_det.modeling.get_norm` returns, or a name; "" for none.
        stem_out_channels: The channels of the stem.
        res2_out_channels: The channels of res2; res3 to res5 have 2, 4 and 8 times as many. None:
            64 for the basic blocks of R18 and R34, 256 for the bottlenecks of deeper networks.
        num_groups: The groups of the 3x3 convolutions: more than 1 for a ResNeXt.
        width_per_group: The channels of such a group in res2, twice as many in each later stage.
        stride_in_1x1: Whether the stride of a bottleneck is on its first 1x1 convolution.
        res5_dilation: The dilation of res5, 1 or 2.
        deform_on_per_stage: Whether the 3x3 convolutions are deformable, for each of res2 to res5.
        deform_modulated: Whether the deformable convolutions have a learned mask.
        deform_num_groups: The groups of the offsets of deformable convolutions.
        zero_init_residual: Whether the last norm of each block starts at 0
            (``MODEL.GN.ZERO_INIT_RESIDUAL``).
        weight_standardization: Whether the weights of the convolutions are standardized.
        memory: What is saved for backward, a value of ``MODEL.GN.MEMORY``.

    Raises:
        ConfigError: The depth is unknown, R18 and R34 do not have an argument, or deformable
            convolutions would have Weight Standardization.
    """
    basic = depth in (18, 34)
    if res2_out_channels is None:
        res2_out_channels = 64 if basic else 256
    if depth not in NUM_BLOCKS:
        known = ", ".join(map(str, NUM_BLOCKS))
        raise ConfigError(f"MODEL.RESNETS.DEPTH is {depth}; known are {known}.")
    if basic:
        _check_basic_blocks(depth, res2_out_channels, res5_dilation, num_groups)
    if any(deform_on_per_stage) and basic:
        raise ConfigError(
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE is for bottlenecks (depth 50 and more), "
            f"but MODEL.RESNETS.DEPTH is {depth}."
        )
    if any(deform_on_per_stage) and weight_standardization:
        raise ConfigError(
            "MODEL.GN.WEIGHT_STANDARDIZATION is for plain convolutions, but "
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE is {list(deform_on_per_stage)}. "
            "Set one of them to False."
        )
    width = 2 ** (stage - 2)
    num_blocks = NUM_BLOCKS[depth][stage - 2]
    dilation = res5_dilation if stage == 5 else 1
    first_stride = 1 if stage == 2 or dilation > 1 else 2
    out_channels = res2_out_channels * width
    in_channels = stem_out_channels if stage == 2 else out_channels // 2
    kwargs: dict[str, Any] = {
        "num_blocks": num_blocks,
        "stride_per_block": [first_stride] + [1] * (num_blocks - 1),
        "in_channels": in_channels,
        "out_channels": out_channels,
        "norm": as_builder(norm),
    }
    if basic:
        kwargs["block_class"] = BasicBlock
    else:
        kwargs["block_class"] = BottleneckBlock
        kwargs["bottleneck_channels"] = num_groups * width_per_group * width
        kwargs["stride_in_1x1"] = stride_in_1x1
        kwargs["dilation"] = dilation
        kwargs["num_groups"] = num_groups
        if deform_on_per_stage[stage - 2]:
            kwargs["block_class"] = DeformBottleneckBlock
            kwargs["deform_modulated"] = deform_modulated
            kwargs["deform_num_groups"] = deform_num_groups
    blocks = ResNet.make_stage(**kwargs)
    for block in blocks:
        if zero_init_residual:
            zero_init((block.conv2 if basic else block.conv3).norm)
        if weight_standardization:
            standardize_convs(block)
        set_memory(block, memory)
    return blocks


def _check_basic_blocks(depth: int, res2_out_channels: int, dilation: int, groups: int) -> None:
    wanted = {
        # 256, Detectron2's default, is for bottlenecks
        "RES2_OUT_CHANNELS": (res2_out_channels, min(64, res2_out_channels)),
        "RES5_DILATION": (dilation, 1),
        "NUM_GROUPS": (groups, 1),
    }
    for key, (value, needed) in wanted.items():
        if value != needed:
            raise ConfigError(
                f"MODEL.RESNETS.DEPTH {depth} has basic blocks and needs "
                f"MODEL.RESNETS.{key} {needed}, got {value}."
            )


def _resnet_from_cfg(cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
    return {
        **_stage_from_cfg(cfg),
        "in_channels": input_shape.channels,
        "out_features": cfg.MODEL.RESNETS.OUT_FEATURES,
        "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        "channels_last": cfg.MODEL.CHANNELS_LAST,
    }


@BACKBONE_REGISTRY.register()
@configurable(from_config=_resnet_from_cfg)
def build_gn_resnet_backbone(
    *,
    depth: int,
    norm: NormBuilder,
    out_features: Sequence[str],
    in_channels: int = 3,
    stem_out_channels: int = 64,
    freeze_at: int = 0,
    weight_standardization: bool = False,
    memory: str = "standard",
    channels_last: bool = False,
    **stages: Any,
) -> ResNet:
    """Build a ResNet-18 to -152 or a ResNeXt with any norm after every convolution.

    It takes arguments, as a LazyConfig gives them, or ``(cfg, input_shape)`` as Detectron2's
    ``build_resnet_backbone``: then it reads the same keys as that one, and those of ``MODEL.GN``.
    State dict and features are the same.

    Args:
        depth: The depth, one of :data:`NUM_BLOCKS`.
        norm: The norm, see :func:`make_resnet_stage`.
        out_features: The names of the features to return: ``["res4"]`` makes a C4 backbone, res2
            to res5 feed an FPN.
        in_channels: The channels of the image.
        stem_out_channels: The channels of the stem.
        freeze_at: The number of parts that are not trained: 1 the stem, 2 the stem and res2, ...
        weight_standardization: Whether the weights of the convolutions are standardized.
        memory: What is saved for backward, a value of ``MODEL.GN.MEMORY``.
        channels_last: Whether the network works in PyTorch's channels_last layout.
        **stages: The other arguments of :func:`make_resnet_stage`.

    Raises:
        ConfigError, ValueError: See :func:`make_resnet_stage` and
            :class:`gn_det.layers.GroupNorm`.
    """
    norm = as_builder(norm)
    stem = BasicStem(in_channels=in_channels, out_channels=stem_out_channels, norm=norm)
    if weight_standardization:
        standardize_convs(stem)
    set_memory(stem, memory)
    shared: dict[str, Any] = {
        "depth": depth,
        "norm": norm,
        "stem_out_channels": stem_out_channels,
        "weight_standardization": weight_standardization,
        "memory": memory,
    }
    # ResNet drops the stages after the last one that out_features names
    blocks = [make_resnet_stage(stage, **shared, **stages) for stage in range(2, 6)]
    backbone = ResNet(stem, blocks, out_features=list(out_features), freeze_at=freeze_at)
    if channels_last:
        to_channels_last(backbone)
    return backbone
