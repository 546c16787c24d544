"""What a built model shows of its network, and the names of its parameters alone."""

import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from torch import nn

from gn_det import model_zoo
from gn_det.layers import GroupNorm
from gn_det.modeling import NORMS, Norm, build_gn_vgg_backbone
from gn_det.modeling.network import Network, blocks_of, network_of, resnet_depth


def _names(blocks, convs):
    return [
        f"backbone.res{stage + 2}.{block}.conv{conv + 1}.weight"
        for stage, count in enumerate(blocks)
        for block in range(count)
        for conv in range(convs)
    ]


@pytest.mark.parametrize(
    ("blocks", "convs", "depth"),
    [
        ((2, 2, 2, 2), 2, 18),
        ((3, 4, 6, 3), 2, 34),
        ((3, 4, 6, 3), 3, 50),
        ((3, 4, 23, 3), 3, 101),
        ((3, 8, 36, 3), 3, 152),
        ((3, 4, 6), 3, None),
        ((), 3, None),
    ],
)
def test_depth(blocks, convs, depth):
    assert resnet_depth(_names(blocks, convs)) == depth


@pytest.mark.parametrize(
    ("blocks", "convs", "depth"),
    [((3, 4, 6), 3, 50), ((3, 4), 3, None), ((3, 4), 2, 34), ((2,), 2, 18), ((2, 3), 2, None)],
)
def test_depth_without_the_last_stages(blocks, convs, depth):
    assert resnet_depth(_names(blocks, convs), whole=False) == depth


def _model(*options, name="mask_rcnn_R50_gn_all", build=build_model):
    cfg = model_zoo.get_config(name)
    cfg.merge_from_list(["MODEL.DEVICE", "meta", *options])
    with torch.device("meta"):
        return build(cfg)


RESNET_50 = Network("ResNet", 50, "GN", {"num_groups": 32}, False, False)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {}),
        (["MODEL.RESNETS.DEPTH", 101], {"depth": 101}),
        (["MODEL.RESNETS.STRIDE_IN_1X1", True], {"stride_in_1x1": True}),
        (["MODEL.GN.WEIGHT_STANDARDIZATION", True], {"weight_standardization": True}),
        (["MODEL.RESNETS.NORM", "BN"], {"norm": "BN", "groups": {}}),  # res2 is FrozenBN
        (["MODEL.RESNETS.NORM", ""], {"norm": "", "groups": {}}),
        (["MODEL.RESNETS.NORM", "IN"], {"norm": "IN", "groups": {"channels_per_group": 1}}),
        (["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"], {}),
        (
            ["MODEL.RESNETS.DEPTH", 34, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64],
            {"depth": 34, "stride_in_1x1": None},
        ),
    ],
)
def test_resnets(options, expected):
    assert network_of(_model(*options)) == Network(**{**vars(RESNET_50), **expected})


def test_groups_are_in_the_words_of_the_norms_entry(monkeypatch):
    class NewNorm(GroupNorm):
        pass

    monkeypatch.setitem(NORMS, "New", Norm(NewNorm, None, groups={"channels_per_group": 16}))
    model = build_gn_vgg_backbone(depth=11, norm="New", base_channels=64, out_features=["vgg1"])
    network = network_of(model)
    assert (network.norm, network.groups) == ("New", {"channels_per_group": 16})


def test_the_last_stage_of_a_c4_model_is_in_its_heads():
    model = _model(name="mask_rcnn_R50_C4_gn")
    assert network_of(model) == network_of(model.backbone) == RESNET_50
    blocks = blocks_of(model)
    assert len(blocks) == 1 + 3 + 4 + 6 + 3
    assert list(blocks)[0] == "backbone.stem"
    assert list(blocks)[-1] == "roi_heads.res5.2"


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vggs(depth):
    vgg = ["MODEL.BACKBONE.NAME", "build_gn_vgg_backbone", "MODEL.VGG.DEPTH", depth]
    backbone = _model(*vgg, build=build_backbone)
    assert network_of(backbone) == Network("VGG", depth, "", {}, None, False)
    assert list(blocks_of(backbone)) == ["vgg1", "vgg2", "vgg3", "vgg4", "vgg5"]


def test_other_models():
    assert network_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))) is None
