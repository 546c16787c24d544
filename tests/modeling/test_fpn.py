import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from gn_det.modeling import FPN, StandardizedConv2d, build_gn_resnet_backbone, get_norm

IMAGE = ShapeSpec(channels=3)


def _images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="R18-GN"),
        pytest.param(["MODEL.RESNETS.NORM", "FrozenBN", "MODEL.FPN.NORM", ""], id="FrozenBN-none"),
        pytest.param(["MODEL.RESNETS.NORM", "FrozenBN"], id="FrozenBN-GN"),
        pytest.param(["MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN"], id="BN-BN"),
        pytest.param(["MODEL.FPN.FUSE_TYPE", "avg", "MODEL.BACKBONE.FREEZE_AT", 2], id="average"),
    ],
)
def test_same_as_detectron2s(tiny_cfg, stock_cfg, assert_same_state, options):
    cfg = tiny_cfg(*options)
    models = []
    for one in (cfg, stock_cfg(cfg)):
        torch.manual_seed(0)
        models.append(build_backbone(one, IMAGE))
    ours, theirs = models
    assert_same_state(ours, theirs)
    assert ours.output_shape() == theirs.output_shape()
    assert ours.padding_constraints == theirs.padding_constraints
    a, b = ours(_images()), theirs(_images())
    assert list(a) == list(b) == ["p2", "p3", "p4", "p5", "p6"]
    for name in a:
        assert torch.isfinite(a[name]).all()
        assert torch.equal(a[name], b[name]), name


def _build(cfg):
    return BACKBONE_REGISTRY.get("build_gn_resnet_fpn_backbone")(cfg, IMAGE)


@pytest.mark.parametrize("mode", ["standard", "lean", "minimal"])
def test_a_pyramid_may_end_at_res4(tiny_cfg, mode):
    """Its last level is every other pixel of the one below, as p6 is of p5."""
    three = ["res2", "res3", "res4"]
    options = ["MODEL.RESNETS.OUT_FEATURES", three, "MODEL.FPN.IN_FEATURES", three]
    backbone = build_backbone(tiny_cfg(*options, "MODEL.GN.MEMORY", mode), IMAGE).train()
    strides = {name: shape.stride for name, shape in backbone.output_shape().items()}
    assert strides == {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
    features = backbone(_images())
    assert {name: 64 // x.shape[-1] for name, x in features.items()} == strides
    assert torch.equal(features["p5"], features["p4"][..., ::2, ::2])


def test_norm_on_every_convolution_of_the_pyramid(tiny_cfg):
    cfg = tiny_cfg("MODEL.GN.NUM_GROUPS", 16, "MODEL.GN.EPS", 1e-3)
    fpn = _build(cfg)
    convs = [*fpn.lateral_convs, *fpn.output_convs]
    assert len(convs) == 8
    for conv in convs:
        assert isinstance(conv.norm, nn.GroupNorm)
        assert (conv.norm.num_groups, conv.norm.eps) == (16, 1e-3)
        assert conv.bias is None


def test_without_a_norm_the_convolutions_have_a_bias(tiny_cfg):
    fpn = _build(tiny_cfg("MODEL.FPN.NORM", ""))
    for conv in [*fpn.lateral_convs, *fpn.output_convs]:
        assert conv.norm is None
        assert conv.bias is not None


@pytest.mark.parametrize(("norm", "groups"), [("LN", 1), ("IN", 64)])
def test_norm_of_the_pyramid_is_its_own(tiny_cfg, norm, groups):
    fpn = _build(tiny_cfg("MODEL.FPN.NORM", norm, "MODEL.RESNETS.NORM", "FrozenBN"))
    assert {c.norm.num_groups for c in [*fpn.lateral_convs, *fpn.output_convs]} == {groups}
    assert any(isinstance(m, FrozenBatchNorm2d) for m in fpn.bottom_up.modules())
    assert not any(isinstance(m, nn.GroupNorm) for m in fpn.bottom_up.modules())


def test_from_arguments():
    """Its own arguments are of the pyramid alone; the backbone has its own."""
    fpn = FPN(
        bottom_up=build_gn_resnet_backbone(
            depth=18, norm=get_norm("GN"), out_features=["res3", "res4"]
        ),
        in_features=["res3", "res4"],
        out_channels=32,
        norm=get_norm("GN", num_groups=8),
        top_block=LastLevelMaxPool(),
        weight_standardization=True,
        memory="lean",
    )
    own = [*fpn.lateral_convs, *fpn.output_convs]
    assert {conv for conv in fpn.modules() if isinstance(conv, StandardizedConv2d)} == set(own)
    assert {conv.norm.num_groups for conv in own} == {8}
    assert (fpn.memory, fpn.bottom_up.res3[0].memory) == ("lean", "standard")
    strides = {name: 64 // x.shape[-1] for name, x in fpn.eval()(_images()).items()}
    assert strides == {"p3": 8, "p4": 16, "p5": 32}
