import copy
import pickle

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import build_box_head, build_mask_head
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn import functional as F

import gn_det
from gn_det.layers import GroupNorm
from gn_det.modeling import (
    GNFastRCNNConvFCHead,
    GNMaskRCNNConvUpsampleHead,
    StandardizedConv2d,
    build_gn_resnet_backbone,
    fold_weight_standardization,
    standardize_convs,
)

WS = ["MODEL.GN.WEIGHT_STANDARDIZATION", True]
R18 = ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
R50 = ["MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256]
X50 = ["MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 4]
X50 += ["MODEL.RESNETS.STRIDE_IN_1X1", False]
IMAGE = ShapeSpec(channels=3)
ROI = ShapeSpec(channels=64, height=7, width=7)


def _build(cfg, seed=0):
    torch.manual_seed(seed)
    return build_model(cfg)


def _conv(**kwargs) -> tuple[Conv2d, Conv2d]:
    """Return a layer and the same one, standardized."""
    torch.manual_seed(0)
    defaults = {"kernel_size": 3, "padding": 1, "bias": False, "norm": GroupNorm(8, num_groups=2)}
    plain = Conv2d(4, 8, **{**defaults, **kwargs})
    ws = copy.deepcopy(plain)
    standardize_convs(ws)
    return plain, ws


def _images(n=2, channels=4, size=9):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def _reference(conv, x):
    """Convolve in float64 with weights that are standardized one filter at a time."""
    filters = []
    for w in conv.weight.detach().double():
        variance = ((w - w.mean()) ** 2).sum() / (w.numel() - 1)
        filters.append((w - w.mean()) / (variance.sqrt() + 1e-5))
    bias = None if conv.bias is None else conv.bias.double()
    args = (conv.stride, conv.padding, conv.dilation, conv.groups)
    y = F.conv2d(x.double(), torch.stack(filters), bias, *args)
    return conv.activation(copy.deepcopy(conv.norm).double()(y))


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"groups": 4},
        {"groups": 2, "stride": 2, "dilation": 2},
        {"bias": True},
        {"kernel_size": 1, "padding": 0},
        {"norm": FrozenBatchNorm2d(8)},
    ],
    ids=str,
)
def test_layer_is_the_closed_form(kwargs):
    _, ws = _conv(activation=nn.ReLU(), **kwargs)
    x = _images()
    expected = _reference(ws, x)
    assert expected.max() > 0
    torch.testing.assert_close(ws(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_gradient():
    _, ws = _conv(groups=2)
    ws.double()
    x = _images(1, size=3).double().requires_grad_()

    def run(x, weight):
        return torch.func.functional_call(ws, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(run, (x, ws.weight))


def test_it_stays_detectron2s_layer(assert_same_state):
    plain, ws = _conv(activation=F.relu)
    assert type(ws) is StandardizedConv2d
    assert isinstance(ws, Conv2d)
    assert_same_state(ws, plain)
    assert ws.activation is F.relu
    assert not torch.allclose(ws(_images()), plain(_images()), atol=1e-2)
    standardize_convs(ws)  # a second time does nothing
    assert type(ws) is StandardizedConv2d


def test_what_is_left_alone():
    class Own(Conv2d):
        pass

    left = nn.Sequential(
        Conv2d(4, 4, 3),
        Own(4, 4, 3, norm=GroupNorm(4, num_groups=2)),
        nn.Conv2d(4, 4, 3),
        nn.ConvTranspose2d(4, 4, 3),
        nn.Linear(4, 4),
    )
    types = [type(m) for m in left]
    standardize_convs(left)
    assert [type(m) for m in left] == types


@pytest.mark.parametrize("training", [True, False])
def test_empty_input(training):
    _, ws = _conv(activation=nn.ReLU())
    x = torch.zeros(0, 4, 9, 9, requires_grad=True)
    y = ws.train(training)(x)
    assert y.shape == (0, 8, 9, 9)
    y.sum().backward()
    assert torch.equal(ws.weight.grad, torch.zeros_like(ws.weight))


def test_autocast_standardizes_in_float32():
    _, ws = _conv(norm=nn.Identity())
    x = _images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ws(x)
    assert y.dtype == torch.bfloat16
    # rounded to bfloat16 after the statistics: what a plain layer with the folded weight gives
    folded = copy.deepcopy(ws)
    fold_weight_standardization(folded)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(y, folded(x))
    y.float().sum().backward()
    assert ws.weight.grad.dtype == torch.float32
    assert torch.isfinite(ws.weight.grad).all()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_standardized_too(duplicate):
    _, ws = _conv()
    other = duplicate(ws)
    assert type(other) is StandardizedConv2d
    assert torch.equal(other(_images()), ws(_images()))


def test_where_it_is_in_a_model(tiny_cfg):
    model = _build(tiny_cfg(*WS))
    convs = {k: m for k, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    ws = {k for k, m in convs.items() if type(m) is StandardizedConv2d}
    assert ws == {k for k, m in convs.items() if getattr(m, "norm", None) is not None}
    # stem, 16 in blocks and 3 shortcuts; FPN; 4 of each head
    bottom_up = "backbone.bottom_up."
    assert len([k for k in ws if k.startswith(bottom_up)]) == 1 + 16 + 3
    assert len([k for k in ws if k.startswith("backbone.fpn_")]) == 8
    assert {k for k in ws if k.startswith("roi_heads")} == {
        *(f"roi_heads.box_head.conv{i}" for i in (1, 2, 3, 4)),
        *(f"roi_heads.mask_head.mask_fcn{i}" for i in (1, 2, 3, 4)),
    }
    assert len(ws) == 36
    # the ones without a norm
    assert "roi_heads.mask_head.predictor" in convs.keys() - ws
    assert "proposal_generator.rpn_head.conv" in convs.keys() - ws
    # the layers that FPN and heads run are those that were turned
    run = [*model.backbone.lateral_convs, *model.backbone.output_convs]
    run += model.roi_heads.box_head.conv_norm_relus + model.roi_heads.mask_head.conv_norm_relus
    assert {type(m) for m in run} == {StandardizedConv2d}


def test_parts_without_a_norm_stay_plain(tiny_cfg):
    options = ["MODEL.FPN.NORM", "", "MODEL.ROI_BOX_HEAD.NORM", "", "MODEL.ROI_MASK_HEAD.NORM", ""]
    model = _build(tiny_cfg(*WS, *options))
    ws = [k for k, m in model.named_modules() if type(m) is StandardizedConv2d]
    assert len(ws) == 20
    assert all(k.startswith("backbone.bottom_up.") for k in ws)


def test_res5_of_a_c4_head(tiny_cfg):
    model = _build(tiny_cfg(*WS, c4=True))
    convs = [m for m in model.roi_heads.res5.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 5
    assert {type(m) for m in convs} == {StandardizedConv2d}


@pytest.mark.parametrize(("options", "c4"), [([], False), (R50, True)], ids=["FPN", "C4"])
def test_off_is_as_before(tiny_cfg, stock_cfg, assert_same_state, batch, options, c4):
    """Detectron2's own model is what ours was before there was a key."""
    off = tiny_cfg(*options, c4=c4)
    model, stock = _build(off).eval(), _build(stock_cfg(off)).eval()
    assert not any(isinstance(m, StandardizedConv2d) for m in model.modules())
    on = _build(tiny_cfg(*options, *WS, c4=c4)).eval()
    for other in (stock, on):  # the key changes neither names nor initial values
        assert_same_state(model, other)
    with torch.no_grad():
        images = model.preprocess_image(batch).tensor
        a, b, c = (m.backbone(images) for m in (model, stock, on))
    for name in a:
        assert torch.equal(a[name], b[name])
        assert not torch.allclose(a[name], c[name], atol=1e-2)


def test_grouped_convolutions_of_resnext_are_standardized_by_filter():
    cfg = gn_det.get_cfg()
    options = ["MODEL.RESNETS.NORM", "GN", "MODEL.RESNETS.OUT_FEATURES", ["res2"], *X50, *WS]
    cfg.merge_from_list(options)
    torch.manual_seed(0)
    model = build_gn_resnet_backbone(cfg, IMAGE)
    conv = model.res2[0].conv2
    assert type(conv) is StandardizedConv2d
    assert (conv.groups, conv.weight.shape) == (32, (128, 4, 3, 3))
    conv.activation = nn.Identity()
    x = _images(1, channels=128)
    torch.testing.assert_close(conv(x).double(), _reference(conv, x), rtol=1e-4, atol=1e-4)


def test_bn_that_is_frozen_with_its_stage_keeps_it():
    # weights of a BN+WS network need it in the frozen stages as in the others
    cfg = gn_det.get_cfg()
    cfg.merge_from_list(["MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 2, *R18, *WS])
    model = build_gn_resnet_backbone(cfg, IMAGE)
    assert isinstance(model.stem.conv1.norm, FrozenBatchNorm2d)
    assert {type(m) for m in model.modules() if isinstance(m, nn.Conv2d)} == {StandardizedConv2d}


def test_deformable_convolutions_are_refused():
    cfg = gn_det.get_cfg()
    stages = [False, False, True, False]
    cfg.merge_from_list([*WS, "MODEL.RESNETS.DEFORM_ON_PER_STAGE", stages])
    with pytest.raises(ValueError, match=r"WEIGHT_STANDARDIZATION.*DEFORM_ON_PER_STAGE"):
        build_gn_resnet_backbone(cfg, IMAGE)


@pytest.mark.parametrize("on", [True, False])
def test_heads_from_explicit_arguments(on):
    gn = {"conv_norm": GroupNorm, "weight_standardization": on}
    box = GNFastRCNNConvFCHead(ROI, conv_dims=[64], fc_dims=[8], **gn)
    mask = GNMaskRCNNConvUpsampleHead(ROI, num_classes=3, conv_dims=[64, 64], **gn)
    expected = StandardizedConv2d if on else Conv2d
    assert type(box.conv1) is type(mask.mask_fcn1) is expected
    assert type(mask.predictor) is Conv2d


@pytest.mark.parametrize("build", [build_box_head, build_mask_head])
def test_no_rois(tiny_cfg, build):
    head = build(tiny_cfg(*WS), ROI)
    x = torch.zeros(0, 64, 7, 7, requires_grad=True)
    y = (head.layers if build is build_mask_head else head)(x)
    assert y.shape[0] == 0
    y.sum().backward()
    assert x.grad.shape == x.shape
    for name, p in head.named_parameters():
        assert torch.equal(p.grad, torch.zeros_like(p)), name


def _step(model, batch):
    torch.manual_seed(1)
    with EventStorage(0):
        losses = model(batch)
    sum(losses.values()).backward()
    return losses


@pytest.mark.parametrize("instances", [(2, 3), (0, 0)], ids=["objects", "no-objects"])
def test_a_model_trains(tiny_cfg, make_batch, instances):
    model = _build(tiny_cfg(*WS)).train()
    losses = _step(model, make_batch(instances))
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    for name, p in model.named_parameters():
        assert torch.isfinite(p.grad).all(), name
    conv = model.backbone.bottom_up.stem.conv1
    assert conv.weight.grad.abs().max() > 0
    # the mean of a filter does not matter, so nothing pulls on it
    size = conv.weight.grad.abs().mean()
    assert conv.weight.grad.mean(dim=(1, 2, 3)).abs().max() < 1e-4 * size


def test_folded_model_is_a_plain_one_with_the_same_outputs(tiny_cfg, batch):
    options = ["MODEL.BACKBONE.FREEZE_AT", 2]
    model = _build(tiny_cfg(*WS, *options)).eval()
    folded = copy.deepcopy(model)
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    assert fold_weight_standardization(folded) is None
    assert not any(isinstance(m, StandardizedConv2d) for m in folded.modules())
    assert {name: p.requires_grad for name, p in folded.named_parameters()} == trained
    # its weights go to a model without the key
    plain = _build(tiny_cfg(*options), seed=2).eval()
    plain.load_state_dict(folded.state_dict(), strict=True)
    conv = plain.backbone.fpn_output2.weight
    torch.testing.assert_close(conv.mean(dim=(1, 2, 3)), torch.zeros(64), rtol=0, atol=1e-6)
    with torch.no_grad():
        images = model.preprocess_image(batch).tensor
        expected = model.backbone(images)
        for other in (folded, plain):
            features = other.backbone(images)
            for name in expected:
                assert (features[name] - expected[name]).abs().max() <= 1e-6
        found = [m(batch) for m in (model, folded, plain)]
    for ours, *others in zip(*found):
        a = ours["instances"]
        assert len(a) > 0
        for other in others:
            b = other["instances"]
            torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-6)
            torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor)
            assert torch.equal(a.pred_masks, b.pred_masks)
    # the original is as it was, and a second fold of the copy changes nothing
    assert any(isinstance(m, StandardizedConv2d) for m in model.modules())
    state = copy.deepcopy(folded.state_dict())
    fold_weight_standardization(folded)
    assert all(torch.equal(v, state[k]) for k, v in folded.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_fold_in_other_types(dtype):
    _, ws = _conv(norm=nn.Identity())
    ws.to(dtype)
    x = _images().to(dtype)
    expected = ws(x)
    fold_weight_standardization(ws)
    assert type(ws) is Conv2d
    assert ws.weight.dtype == dtype
    assert torch.equal(ws(x), expected)
