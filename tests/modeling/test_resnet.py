import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import resnet
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn

import gn_det
from gn_det.modeling import build_gn_resnet_backbone, get_norm, make_resnet_stage

R18 = ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
R34 = ["MODEL.RESNETS.DEPTH", 34, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
X50 = ["MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 4]
STRIDE_IN_3X3 = ["MODEL.RESNETS.STRIDE_IN_1X1", False]
X50 += STRIDE_IN_3X3
DILATED = ["MODEL.RESNETS.RES5_DILATION", 2]
DEFORMABLE = ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]]
MODULATED = [*DEFORMABLE, "MODEL.RESNETS.DEFORM_MODULATED", True]
MODULATED += ["MODEL.RESNETS.DEFORM_NUM_GROUPS", 2]
ALL = ["res2", "res3", "res4", "res5"]
IMAGE = ShapeSpec(channels=3)


def _cfg(*options, norm="GN", out_features=ALL):
    cfg = gn_det.get_cfg()
    cfg.merge_from_list(
        ["MODEL.RESNETS.NORM", norm, "MODEL.RESNETS.OUT_FEATURES", out_features, *options]
    )
    return cfg


def _both(cfg):
    """Build ours and Detectron2's from the same seed."""
    models = []
    for name in ("build_gn_resnet_backbone", "build_resnet_backbone"):
        torch.manual_seed(0)
        models.append(BACKBONE_REGISTRY.get(name)(cfg, IMAGE))
    return models


def _stock(cls):
    """Return the class that one of ours is made from."""
    return next(base for base in cls.__mro__ if not base.__module__.startswith("gn_det"))


def _norms(model, cls=nn.GroupNorm):
    return [m for m in model.modules() if isinstance(m, cls)]


def _images(n=2, height=64, width=64):
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "cfg",
    [
        pytest.param(_cfg(*R18), id="R18"),
        pytest.param(_cfg(*R34), id="R34"),
        pytest.param(_cfg(), id="R50"),
        pytest.param(_cfg(*STRIDE_IN_3X3, out_features=["res3"]), id="R50-stride-in-3x3"),
        pytest.param(_cfg(*X50), id="X50-32x4d"),
        pytest.param(_cfg(*DILATED, out_features=["res5"]), id="R50-dilated"),
        pytest.param(_cfg(out_features=["res4"]), id="R50-C4"),
        pytest.param(_cfg(out_features=["stem", "res3"]), id="R50-stem-res3"),
        pytest.param(_cfg(*R18, norm="FrozenBN"), id="R18-FrozenBN"),
        pytest.param(_cfg(*R18, norm="BN"), id="R18-BN"),
        pytest.param(_cfg(*R18, norm="SyncBN"), id="R18-SyncBN"),
        pytest.param(_cfg(*R18, norm=""), id="R18-none"),
        pytest.param(_cfg(norm="FrozenBN", out_features=["res4"]), id="R50-C4-FrozenBN"),
    ],
)
def test_same_as_detectron2s(cfg, assert_same_state):
    ours, theirs = _both(cfg)
    assert_same_state(ours, theirs)
    assert ours.output_shape() == theirs.output_shape()
    x = _images()
    for model in (ours, theirs):
        model.train()
    a, b = ours(x), theirs(x)
    assert list(a) == list(b) == cfg.MODEL.RESNETS.OUT_FEATURES
    for name in a:
        assert torch.isfinite(a[name]).all()
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("options", [[], STRIDE_IN_3X3, X50], ids=["R", "R-stride-in-3x3", "X"])
@pytest.mark.parametrize("depth", [101, 152])
def test_same_keys_and_shapes_as_detectron2s_deep(depth, options, assert_same_state):
    with torch.device("meta"):
        ours, theirs = _both(_cfg("MODEL.RESNETS.DEPTH", depth, *options))
    assert_same_state(ours, theirs)
    assert len(_norms(ours)) == len(_norms(theirs)) == depth + 3  # - 1 fc + 4 shortcuts


@pytest.mark.parametrize("options", [DEFORMABLE, MODULATED], ids=["deformable", "modulated"])
def test_same_keys_and_shapes_as_detectron2s_deformable(options, assert_same_state):
    pytest.importorskip("detectron2._C", reason="deformable convolution is compiled")
    with torch.device("meta"):
        ours, theirs = _both(_cfg(*options))
    assert_same_state(ours, theirs)
    types = [[_stock(type(m)) for m in model.modules()] for model in (ours, theirs)]
    assert types[0] == types[1]
    assert resnet.DeformBottleneckBlock in types[0]
    assert any("conv2_offset" in key for key in ours.state_dict())


@pytest.mark.parametrize("depth", [18, 50])
def test_gn_keys_are_obeyed_by_every_norm(depth):
    options = R18 if depth == 18 else []
    with torch.device("meta"):
        by_count = build_gn_resnet_backbone(
            _cfg(*options, "MODEL.GN.NUM_GROUPS", 16, "MODEL.GN.EPS", 1e-3), IMAGE
        )
        by_width = build_gn_resnet_backbone(
            _cfg(*options, "MODEL.GN.CHANNELS_PER_GROUP", 16), IMAGE
        )
    convs = len([m for m in by_count.modules() if isinstance(m, nn.Conv2d)])
    assert len(_norms(by_count)) == len(_norms(by_width)) == convs
    assert {(m.num_groups, m.eps) for m in _norms(by_count)} == {(16, 1e-3)}
    assert {(m.num_channels // m.num_groups, m.eps) for m in _norms(by_width)} == {(16, 1e-5)}


@pytest.mark.parametrize(("norm", "groups"), [("LN", lambda c: 1), ("IN", lambda c: c)])
def test_ln_and_in(norm, groups):
    model = build_gn_resnet_backbone(_cfg(*R18, norm=norm), IMAGE)
    assert all(m.num_groups == groups(m.num_channels) for m in _norms(model))
    assert len(_norms(model)) == 20
    assert all(torch.isfinite(y).all() for y in model(_images()).values())


@pytest.mark.parametrize("norm", ["GN", "LN", "IN", "BN", "SyncBN"])
@pytest.mark.parametrize("options", [R18, X50], ids=["basic", "bottleneck"])
def test_zero_init_makes_each_block_the_identity(options, norm):
    cfg = _cfg(*options, "MODEL.GN.ZERO_INIT_RESIDUAL", True, norm=norm)
    torch.manual_seed(0)
    blocks = make_resnet_stage(cfg, 3)
    x = torch.randn(2, 64 if options == R18 else 256, 8, 8)
    for block in blocks:
        shortcut = x if block.shortcut is None else block.shortcut(x)
        y = block(x)
        assert torch.equal(y, shortcut.relu())
        x = y
    assert x.abs().max() > 0
    # the last norm of each branch alone is changed
    torch.manual_seed(0)
    plain = make_resnet_stage(_cfg(*options, norm=norm), 3)
    for block, other in zip(blocks, plain):
        last = "conv3" if isinstance(block, BottleneckBlock) else "conv2"
        fresh = other.state_dict()  # the forward pass above has moved BN's statistics
        for key, value in block.named_parameters():
            expected = torch.zeros_like(value) if key == f"{last}.norm.weight" else fresh[key]
            assert torch.equal(value, expected), key


@pytest.mark.parametrize("norm", ["FrozenBN", ""])
def test_zero_init_leaves_other_norms_alone(norm, assert_same_state):
    models = []
    for zero in (True, False):
        torch.manual_seed(0)
        cfg = _cfg(*R18, "MODEL.GN.ZERO_INIT_RESIDUAL", zero, norm=norm)
        models.append(build_gn_resnet_backbone(cfg, IMAGE))
    assert_same_state(*models)


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3, 5])
def test_freeze_at(freeze_at):
    with torch.device("meta"):
        model = build_gn_resnet_backbone(_cfg(*R18, "MODEL.BACKBONE.FREEZE_AT", freeze_at), IMAGE)
    for number, name in enumerate(["stem", *ALL], start=1):
        trained = {p.requires_grad for p in getattr(model, name).parameters()}
        assert trained == {number > freeze_at}, name


def test_freeze_at_turns_frozen_bn_into_frozen_bn():
    model = build_gn_resnet_backbone(_cfg(*R18, norm="BN"), IMAGE)  # FREEZE_AT is 2
    assert len(_norms(model, FrozenBatchNorm2d)) == 5
    assert len(_norms(model, nn.BatchNorm2d)) == 15


def test_unknown_depth():
    with pytest.raises(ValueError, match=r"MODEL\.RESNETS\.DEPTH is 26.*18, 34, 50, 101, 152"):
        build_gn_resnet_backbone(_cfg("MODEL.RESNETS.DEPTH", 26), IMAGE)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("RES2_OUT_CHANNELS", 256, "RES2_OUT_CHANNELS 64, got 256"),
        ("RES5_DILATION", 2, "RES5_DILATION 1, got 2"),
        ("NUM_GROUPS", 32, "NUM_GROUPS 1, got 32"),
        ("DEFORM_ON_PER_STAGE", [False, True, True, True], "DEFORM_ON_PER_STAGE"),
    ],
)
@pytest.mark.parametrize("depth", [R18, R34], ids=["R18", "R34"])
def test_keys_that_basic_blocks_lack(depth, key, value, wanted):
    with pytest.raises(ValueError, match=wanted) as error:
        build_gn_resnet_backbone(_cfg(*depth, f"MODEL.RESNETS.{key}", value), IMAGE)
    assert f"DEPTH {depth[1]}" in str(error.value).replace("DEPTH is", "DEPTH")


def test_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="64 channels.*48"):
        build_gn_resnet_backbone(_cfg("MODEL.GN.NUM_GROUPS", 48), IMAGE)


def test_from_arguments_as_from_keys(assert_same_state):
    keys = [*X50, "MODEL.RESNETS.DEPTH", 101, "MODEL.RESNETS.RES5_DILATION", 2]
    keys += ["MODEL.RESNETS.STEM_OUT_CHANNELS", 32, "MODEL.BACKBONE.FREEZE_AT", 3]
    keys += ["MODEL.GN.NUM_GROUPS", 16, "MODEL.GN.WEIGHT_STANDARDIZATION", True]
    keys += ["MODEL.GN.MEMORY", "lean", "MODEL.CHANNELS_LAST", True]
    keys += ["MODEL.GN.ZERO_INIT_RESIDUAL", True]
    with torch.device("meta"):
        ours = build_gn_resnet_backbone(
            depth=101,
            norm=get_norm("GN", num_groups=16),
            out_features=["res4", "res5"],
            in_channels=4,
            stem_out_channels=32,
            freeze_at=3,
            num_groups=32,
            width_per_group=4,
            res5_dilation=2,
            zero_init_residual=True,
            weight_standardization=True,
            memory="lean",
            channels_last=True,
        )
        theirs = build_gn_resnet_backbone(
            _cfg(*keys, out_features=["res4", "res5"]), ShapeSpec(channels=4)
        )
    assert_same_state(ours, theirs)
    assert str(ours) == str(theirs)  # strides, dilation, groups, standardized layers
    assert {block.memory for block in ours.res4} == {block.memory for block in theirs.res4}
    assert ours.res4[0].memory == "lean"
    assert len(ours._forward_pre_hooks) == len(theirs._forward_pre_hooks) == 1


@pytest.mark.parametrize("depth", [18, 34])
def test_basic_blocks_have_64_channels_by_default(depth):
    with torch.device("meta"):
        model = build_gn_resnet_backbone(depth=depth, norm="", out_features=["res2", "res5"])
    channels = {name: shape.channels for name, shape in model.output_shape().items()}
    assert channels == {"res2": 64, "res5": 512}


def test_unknown_argument():
    with pytest.raises(TypeError, match="stride_in_1x2"):
        build_gn_resnet_backbone(depth=50, norm="", out_features=["res5"], stride_in_1x2=True)
