import detectron2.config
import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from torch import nn

import gn_det
from gn_det.layers import GroupNorm
from gn_det.modeling import (
    FPN,
    NORMS,
    GNFastRCNNConvFCHead,
    GNMaskRCNNConvUpsampleHead,
    build_gn_resnet_backbone,
    build_gn_vgg_backbone,
    build_res5,
    get_norm,
    norm_from_cfg,
)


@pytest.mark.parametrize(
    ("name", "cls", "groups"),
    [
        ("BN", nn.BatchNorm2d, None),
        ("SyncBN", nn.SyncBatchNorm, None),
        ("FrozenBN", FrozenBatchNorm2d, None),
        ("GN", GroupNorm, 32),
        ("LN", GroupNorm, 1),
        ("IN", GroupNorm, 64),
    ],
)
def test_norms_by_name(name, cls, groups):
    norm = get_norm(name)(64)
    assert type(norm) is cls
    assert norm.weight.shape == (64,)
    assert norm.eps == 1e-5
    if groups is not None:
        assert norm.num_groups == groups
    assert name in NORMS


def test_no_norm_is_the_empty_string():
    # Detectron2's FPN and heads test norm == ""
    assert get_norm("") == ""


@pytest.mark.parametrize("name", ["gn", "GroupNorm", "BatchNorm"])
def test_unknown_name(name):
    with pytest.raises(ValueError, match=repr(name)) as error:
        get_norm(name)
    for known in ("''", *map(repr, NORMS)):
        assert known in str(error.value)


def test_arguments_reach_the_norm():
    norm = get_norm("GN", num_groups=4, eps=1e-3)(64)
    assert (norm.num_groups, norm.eps) == (4, 1e-3)
    norm = get_norm("GN", num_groups=5, channels_per_group=16)(64)
    assert norm.num_groups == 4
    # the groups are GN's alone
    assert get_norm("LN", num_groups=4, eps=1e-3)(64).num_groups == 1
    assert get_norm("IN", channels_per_group=16, eps=1e-3)(64).num_groups == 64
    assert get_norm("LN", eps=1e-3)(64).eps == get_norm("IN", eps=1e-3)(64).eps == 1e-3
    assert get_norm("BN", eps=1e-3)(64).eps == 1e-5


def test_ln_is_the_papers_not_detectron2s():
    x = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0)) + 1
    y = get_norm("LN")(6)(x)
    torch.testing.assert_close(y, nn.functional.layer_norm(x, (6, 3, 4)))
    assert not torch.allclose(y, detectron2.layers.get_norm("LN", 6)(x), atol=0.1)


def test_norm_from_cfg_obeys_the_keys():
    cfg = gn_det.get_cfg()
    assert norm_from_cfg(cfg, "") == ""
    assert norm_from_cfg(cfg, "GN")(64).num_groups == 32
    cfg.merge_from_list(["MODEL.GN.NUM_GROUPS", 8, "MODEL.GN.EPS", 1e-3])
    norm = norm_from_cfg(cfg, "GN")(64)
    assert (norm.num_groups, norm.eps) == (8, 1e-3)
    cfg.MODEL.GN.CHANNELS_PER_GROUP = 16
    assert norm_from_cfg(cfg, "GN")(64).num_groups == 4
    assert norm_from_cfg(cfg, "LN")(64).eps == 1e-3


def test_config_without_our_keys():
    with pytest.raises(ValueError, match=r"gn_det\.add_gn_config\(cfg\)"):
        norm_from_cfg(detectron2.config.get_cfg(), "GN")


def test_a_name_as_an_argument_is_the_papers_norm():
    shape = ShapeSpec(channels=8, height=7, width=7)
    resnet = build_gn_resnet_backbone(depth=18, norm="LN", out_features=["res2"])
    parts = [
        resnet,
        build_gn_vgg_backbone(depth=11, norm="LN", base_channels=8, out_features=["vgg1"]),
        build_res5(depth=18, norm="LN"),
        FPN(bottom_up=resnet, in_features=["res2"], out_channels=8, norm="LN"),
        GNFastRCNNConvFCHead(shape, conv_dims=[8], fc_dims=[8], conv_norm="LN"),
        GNMaskRCNNConvUpsampleHead(shape, num_classes=2, conv_dims=[8, 8], conv_norm="LN"),
    ]
    for part in parts:
        norms = [layer for layer in part.modules() if "Norm" in type(layer).__name__]
        assert norms
        assert {(type(norm), norm.num_groups) for norm in norms} == {(GroupNorm, 1)}
    with pytest.raises(ValueError, match="'gn' is not the name of a norm"):
        build_gn_resnet_backbone(depth=18, norm="gn", out_features=["res2"])
