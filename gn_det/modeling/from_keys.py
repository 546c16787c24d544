"""Backbones from the keys of a YAML, as plain arguments: what a LazyConfig can name and change."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from omegaconf import OmegaConf
from torch import nn

from gn_det.config import get_cfg

from .res5_heads import build_res5

__all__ = ["backbone_from_keys", "cfg_from_keys", "res5_from_keys"]


def backbone_from_keys(
    name: str,
    in_channels: int,
    freeze_at: int,
    resnets: dict[str, Any] | None = None,
    gn: dict[str, Any] | None = None,
    fpn: dict[str, Any] | None = None,
    channels_last: bool = False,
    vgg: dict[str, Any] | None = None,
) -> Backbone:
    """Build a registered ResNet or VGG, with or without FPN.

    Args:
        name: of ``BACKBONE_REGISTRY``.
        in_channels: of the image.
        freeze_at: ``MODEL.BACKBONE.FREEZE_AT``.
        resnets: the keys of ``MODEL.RESNETS`` in lower case, as far as they are not the defaults.
        gn: those of ``MODEL.GN``.
        fpn: those of ``MODEL.FPN``.
        channels_last: ``MODEL.CHANNELS_LAST``.
        vgg: the keys of ``MODEL.VGG``.

    Raises:
        ConfigError: a key that does not exist, or a value of another type.
    """
    cfg = cfg_from_keys(
        RESNETS=resnets or {},
        VGG=vgg or {},
        GN=gn or {},
        FPN=fpn or {},
        BACKBONE={"freeze_at": freeze_at},
    )
    cfg.MODEL.CHANNELS_LAST = channels_last
    return BACKBONE_REGISTRY.get(name)(cfg, ShapeSpec(channels=in_channels))


def res5_from_keys(
    resnets: dict[str, Any], gn: dict[str, Any], channels_last: bool = False
) -> nn.Sequential:
    """Build res5, which a C4 model runs on each RoI; see :func:`backbone_from_keys`."""
    cfg = cfg_from_keys(RESNETS=resnets, GN=gn)
    cfg.MODEL.CHANNELS_LAST = channels_last
    return build_res5(cfg)


def cfg_from_keys(**groups: dict[str, Any]) -> CfgNode:
    """Return Detectron2's defaults with ``MODEL.GROUP.KEY`` set from ``GROUP={"key": value}``.

    Raises:
        ConfigError: a key that does not exist, or a value of another type.
    """
    cfg = get_cfg()
    keys = []
    for group, values in groups.items():
        values = OmegaConf.to_container(values) if OmegaConf.is_config(values) else values
        for key, value in values.items():
            keys += [f"MODEL.{group}.{key.upper()}", value]
    cfg.merge_from_list(keys)
    return cfg
