"""ResNet and ResNeXt with any norm, from Detectron2's own blocks.

Shapes: N images, C channels, H x W pixels, all of the padded batch.
"""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import ResNet

from gn_det.config import ConfigError

from .activation_checkpointing import set_memory
from .blocks import BasicBlock, BasicStem, BottleneckBlock, DeformBottleneckBlock
from .channels_last import to_channels_last
from .norms import norm_from_cfg, zero_init
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


def make_resnet_stage(cfg: CfgNode, stage: int) -> list[CNNBlockBase]:
    """Build the blocks of one stage as ``cfg.MODEL.RESNETS`` describes them.

    Args:
        cfg: A config with our keys; those of ``MODEL.RESNETS`` and ``MODEL.GN`` are read.
        stage: The number of the stage, 2 to 5 for res2 to res5.

    Raises:
        ConfigError: The depth is unknown, R18 and R34 cannot have the value of a key, or
            deformable convolutions would be standardized.
    """
    r = cfg.MODEL.RESNETS
    _check_keys(cfg)
    basic = r.DEPTH < 50
    width = 2 ** (stage - 2)
    num_blocks = NUM_BLOCKS[r.DEPTH][stage - 2]
    dilation = r.RES5_DILATION if stage == 5 else 1
    first_stride = 1 if stage == 2 or dilation > 1 else 2
    out_channels = r.RES2_OUT_CHANNELS * width
    in_channels = r.STEM_OUT_CHANNELS if stage == 2 else out_channels // 2
    kwargs: dict[str, Any] = {
        "num_blocks": num_blocks,
        "stride_per_block": [first_stride] + [1] * (num_blocks - 1),
        "in_channels": in_channels,
        "out_channels": out_channels,
        "norm": norm_from_cfg(cfg, r.NORM),
    }
    if basic:
        kwargs["block_class"] = BasicBlock
    else:
        kwargs["block_class"] = BottleneckBlock
        kwargs["bottleneck_channels"] = r.NUM_GROUPS * r.WIDTH_PER_GROUP * width
        kwargs["stride_in_1x1"] = r.STRIDE_IN_1X1
        kwargs["dilation"] = dilation
        kwargs["num_groups"] = r.NUM_GROUPS
        if r.DEFORM_ON_PER_STAGE[stage - 2]:
            kwargs["block_class"] = DeformBottleneckBlock
            kwargs["deform_modulated"] = r.DEFORM_MODULATED
            kwargs["deform_num_groups"] = r.DEFORM_NUM_GROUPS
    blocks = ResNet.make_stage(**kwargs)
    if cfg.MODEL.GN.ZERO_INIT_RESIDUAL:
        for block in blocks:
            zero_init((block.conv2 if basic else block.conv3).norm)
    for block in blocks:
        if cfg.MODEL.GN.WEIGHT_STANDARDIZATION:
            standardize_convs(block)
        set_memory(block, cfg.MODEL.GN.MEMORY)
    return blocks


@BACKBONE_REGISTRY.register()
def build_gn_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build a ResNet-18 to -152 or a ResNeXt with ``MODEL.RESNETS.NORM`` after every convolution.

    The same keys, state dict and features as Detectron2's ``build_resnet_backbone``; in addition
    the keys of ``MODEL.GN`` are obeyed. ``MODEL.RESNETS.OUT_FEATURES`` names the feature maps that
    are returned: ``["res4"]`` makes a C4 backbone, res2 to res5 feed an FPN.

    Args:
        cfg: A config with our keys.
        input_shape: The shape of the images; its ``channels`` are read.

    Raises:
        ValueError: See :func:`make_resnet_stage` and :class:`gn_det.layers.GroupNorm`.
    """
    r = cfg.MODEL.RESNETS
    stem = BasicStem(
        in_channels=input_shape.channels,
        out_channels=r.STEM_OUT_CHANNELS,
        norm=norm_from_cfg(cfg, r.NORM),
    )
    if cfg.MODEL.GN.WEIGHT_STANDARDIZATION:
        standardize_convs(stem)
    set_memory(stem, cfg.MODEL.GN.MEMORY)
    # ResNet drops the stages after the last one that out_features names
    stages = [make_resnet_stage(cfg, stage) for stage in range(2, 6)]
    backbone = ResNet(
        stem, stages, out_features=r.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT
    )
    if cfg.MODEL.CHANNELS_LAST:
        to_channels_last(backbone)
    return backbone


def _check_keys(cfg: CfgNode) -> None:
    r = cfg.MODEL.RESNETS
    if r.DEPTH not in NUM_BLOCKS:
        known = ", ".join(map(str, NUM_BLOCKS))
        raise ConfigError(f"MODEL.RESNETS.DEPTH is {r.DEPTH}; known are {known}.")
    if r.DEPTH < 50:
        _check_basic_blocks(r)
    elif any(r.DEFORM_ON_PER_STAGE) and cfg.MODEL.GN.WEIGHT_STANDARDIZATION:
        raise ConfigError(
            "MODEL.GN.WEIGHT_STANDARDIZATION is for plain convolutions, but "
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE is {r.DEFORM_ON_PER_STAGE}. "
            "Set one of them to False."
        )


def _check_basic_blocks(r: CfgNode) -> None:
    wanted = {
        # 256, the default, is for bottlenecks; fewer than 64 are for studies on small images
        "RES2_OUT_CHANNELS": min(64, r.RES2_OUT_CHANNELS),
        "RES5_DILATION": 1,
        "NUM_GROUPS": 1,
    }
    for key, value in wanted.items():
        if r[key] != value:
            raise ConfigError(
                f"MODEL.RESNETS.DEPTH {r.DEPTH} is made of basic blocks and needs "
                f"MODEL.RESNETS.{key} {value}, got {r[key]}."
            )
    if any(r.DEFORM_ON_PER_STAGE):
        raise ConfigError(
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE is for bottlenecks (depth 50 and more), "
            f"but MODEL.RESNETS.DEPTH is {r.DEPTH}."
        )
