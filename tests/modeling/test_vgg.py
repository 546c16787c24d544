import pytest
import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn

import gn_det
from gn_det.checkpoint import convert
from gn_det.config import ConfigError
from gn_det.modeling import StandardizedConv2d, build_gn_vgg_backbone, get_norm
from gn_det.modeling.vgg import NUM_CONVS

IMAGE = ShapeSpec(channels=3)
ALL = ["vgg1", "vgg2", "vgg3", "vgg4", "vgg5", "pool5"]
SMALL = ["MODEL.VGG.BASE_CHANNELS", 8, "MODEL.GN.NUM_GROUPS", 4, "MODEL.VGG.DEPTH", 11]


def _build(*options, norm="GN", out=ALL, freeze_at=0):
    cfg = gn_det.get_cfg()
    keys = ["MODEL.VGG.NORM", norm, "MODEL.VGG.OUT_FEATURES", out]
    cfg.merge_from_list([*keys, "MODEL.BACKBONE.FREEZE_AT", freeze_at, *options])
    torch.manual_seed(0)
    return build_gn_vgg_backbone(cfg, IMAGE)


def _images(n=2, height=64, width=32):
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", ["", "BN"])
@pytest.mark.parametrize("depth", NUM_CONVS)
@torch.no_grad()
def test_features_are_torchvisions(depth, norm):
    name = f"vgg{depth}_bn" if norm else f"vgg{depth}"
    torch.manual_seed(1)
    theirs = getattr(torchvision.models, name)(init_weights=False).features
    for module in theirs.modules():  # statistics as of a trained net, scales that are not 1
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                value.copy_(torch.rand(value.shape) + 0.5)
    ours = _build("MODEL.VGG.DEPTH", depth, norm=norm)
    state = {f"features.{key}": value for key, value in theirs.state_dict().items()}
    ours.load_state_dict(convert(state).state)
    x = _images(1)
    features = ours.eval()(x)
    assert list(features) == ALL
    y, stage = x, 0
    for layer in theirs.eval():
        if isinstance(layer, nn.MaxPool2d):
            torch.testing.assert_close(features[ALL[stage]], y, rtol=1e-4, atol=1e-4)
            stage += 1
        y = layer(y)
    assert stage == 5
    assert y.abs().max() > 0
    torch.testing.assert_close(features["pool5"], y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("norm", "kind", "groups"),
    [("GN", nn.GroupNorm, [4] * 5), ("LN", nn.GroupNorm, [1] * 5), ("BN", nn.BatchNorm2d, None),
     ("IN", nn.GroupNorm, [8, 16, 32, 64, 64]), ("SyncBN", nn.SyncBatchNorm, None),
     ("FrozenBN", FrozenBatchNorm2d, None)],
)  # fmt: skip
def test_norm_after_every_convolution(norm, kind, groups):
    model = _build(*SMALL, "MODEL.VGG.DEPTH", 16, "MODEL.GN.EPS", 1e-3, norm=norm)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [len(getattr(model, f"vgg{k}")) for k in range(1, 6)] == [2, 2, 3, 3, 3]
    assert len(convs) == 13
    assert all(type(conv.norm) is kind or isinstance(conv.norm, kind) for conv in convs)
    assert all(conv.bias is None for conv in convs)
    if groups:
        assert [getattr(model, f"vgg{k + 1}")[0].norm.num_groups for k in range(5)] == groups
        assert {conv.norm.eps for conv in convs} == {1e-3}


def test_shapes_and_widths():
    model = _build(*SMALL)
    shapes = model.output_shape()
    assert [shapes[name].stride for name in ALL] == [1, 2, 4, 8, 16, 32]
    assert [shapes[name].channels for name in ALL] == [8, 16, 32, 64, 64, 64]
    features = model(_images())
    for name in ALL:
        stride = shapes[name].stride
        assert features[name].shape == (2, shapes[name].channels, 64 // stride, 32 // stride)


def test_what_no_feature_needs_is_dropped():
    model = _build(*SMALL, out=["vgg3", "vgg2"])
    assert not hasattr(model, "vgg4")
    assert list(model(_images())) == ["vgg3", "vgg2"] == list(model.output_shape())
    whole = _build(*SMALL)(_images())
    assert torch.equal(model(_images())["vgg3"], whole["vgg3"])


@pytest.mark.parametrize("out", [["conv5"], [], ["vgg5", "pool4"]])
def test_unknown_features(out):
    with pytest.raises(ConfigError, match=r"MODEL\.VGG\.OUT_FEATURES is .*known are vgg1.* pool5"):
        _build(*SMALL, out=out)


def test_unknown_depth():
    with pytest.raises(ConfigError, match=r"MODEL\.VGG\.DEPTH is 12; known are \[11, 13, 16, 19\]"):
        _build("MODEL.VGG.DEPTH", 12)


@pytest.mark.parametrize("freeze_at", [0, 2, 5])
def test_freeze_at(freeze_at):
    model = _build(*SMALL, norm="BN", freeze_at=freeze_at)
    for number in range(1, 6):
        stage = getattr(model, f"vgg{number}")
        assert {p.requires_grad for p in stage.parameters()} == {number > freeze_at} or (
            number <= freeze_at and not any(p.requires_grad for p in stage.parameters())
        )
        kind = FrozenBatchNorm2d if number <= freeze_at else nn.BatchNorm2d
        assert type(stage[0].norm) is kind


def _gradients(model, autocast=False):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        features = model(_images())
    # each feature of its own weight: none may be forgotten
    sum((k + 1) * features[name].float().sum() for k, name in enumerate(features)).backward()
    return features, [p.grad for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("mode", ["lean", "minimal"])
@pytest.mark.parametrize("norm", ["GN", "", "BN", "FrozenBN"])
@pytest.mark.parametrize("options", [[], ["MODEL.GN.WEIGHT_STANDARDIZATION", True]])
def test_memory_modes_give_the_same_gradients(mode, norm, options):
    plain, model = (_build(*SMALL, *options, "MODEL.GN.MEMORY", m, norm=norm, freeze_at=1)
                    for m in ("standard", mode))  # fmt: skip
    assert model.memory == ("standard" if norm == "BN" or (mode, norm) in
                            {("lean", ""), ("lean", "FrozenBN")} else mode)  # fmt: skip
    (expected, theirs), (features, ours) = _gradients(plain), _gradients(model)
    for name in ALL:
        assert torch.equal(features[name], expected[name])
    assert ours
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


def test_memory_modes_keep_less():
    kept = {}
    for mode in ("standard", "lean", "minimal"):
        model = _build(*SMALL, "MODEL.GN.MEMORY", mode, out=["vgg5"])
        parameters = {p.untyped_storage()._cdata for p in model.parameters()}
        seen = {}

        def pack(tensor, seen=seen, parameters=parameters):
            storage = tensor.untyped_storage()
            if storage._cdata not in parameters:
                seen[storage._cdata] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(_images(1, 64, 64))
        kept[mode] = sum(seen.values())
    assert kept["minimal"] < kept["lean"] < kept["standard"]


def test_channels_last():
    plain, model = (_build(*SMALL, "MODEL.CHANNELS_LAST", on) for on in (False, True))
    expected, features = plain(_images()), model(_images())
    assert features["vgg4"].is_contiguous(memory_format=torch.channels_last)
    for name in ALL:
        torch.testing.assert_close(features[name], expected[name], rtol=1e-4, atol=1e-4)


def test_weight_standardization_where_a_norm_follows():
    with_norm = _build(*SMALL, "MODEL.GN.WEIGHT_STANDARDIZATION", True)
    without = _build(*SMALL, "MODEL.GN.WEIGHT_STANDARDIZATION", True, norm="")
    assert sum(isinstance(m, StandardizedConv2d) for m in with_norm.modules()) == 8
    assert not any(isinstance(m, StandardizedConv2d) for m in without.modules())


@pytest.mark.parametrize("mode", ["standard", "lean", "minimal"])
def test_no_images(mode):
    model = _build(*SMALL, "MODEL.GN.MEMORY", mode)
    features = model(_images(0))
    assert features["vgg5"].shape == (0, 64, 4, 2)
    features["vgg5"].sum().backward()
    assert model.vgg1[0].weight.grad.abs().sum() == 0


def test_convolutions_start_as_he_has_it():
    conv = _build(norm="").vgg5[0]
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)
    assert conv.bias.abs().max() == 0


def test_pyramid(tiny_cfg):
    four = ["vgg3", "vgg4", "vgg5", "pool5"]
    cfg = tiny_cfg(
        *SMALL,
        *("MODEL.VGG.NORM", "GN", "MODEL.VGG.OUT_FEATURES", four),
        *("MODEL.FPN.IN_FEATURES", four),
    )
    fpn = BACKBONE_REGISTRY.get("build_gn_vgg_fpn_backbone")(cfg, IMAGE)
    assert [shape.stride for shape in fpn.output_shape().values()] == [4, 8, 16, 32, 64]
    features = fpn(_images(1, 64, 64))
    assert list(features) == ["p2", "p3", "p4", "p5", "p6"]
    assert fpn.fpn_lateral5.norm.num_groups == 4
    assert features["p2"].shape == (1, 64, 16, 16)


def test_from_arguments_as_from_keys(assert_same_state):
    keys = [*SMALL, "MODEL.GN.WEIGHT_STANDARDIZATION", True, "MODEL.GN.MEMORY", "minimal"]
    theirs = _build(*keys, "MODEL.CHANNELS_LAST", True, out=["vgg3", "pool5"], freeze_at=2)
    torch.manual_seed(0)
    ours = build_gn_vgg_backbone(
        depth=11,
        norm=get_norm("GN", num_groups=4),
        out_features=["vgg3", "pool5"],
        base_channels=8,
        freeze_at=2,
        weight_standardization=True,
        memory="minimal",
        channels_last=True,
    )
    assert_same_state(ours, theirs)
    assert str(ours) == str(theirs)
    assert ours.memory == theirs.memory == "minimal"
    assert len(ours._forward_pre_hooks) == len(theirs._forward_pre_hooks) == 1
    assert list(ours.output_shape()) == ["vgg3", "pool5"]
