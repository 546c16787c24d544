import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_roi_heads
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn

from gn_det.modeling import GNRes5ROIHeads, build_res5, get_norm

R50 = ["MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256]
R34 = ["MODEL.RESNETS.DEPTH", 34]
X50 = [*R50, "MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 4]


def _build(cfg):
    torch.manual_seed(0)
    channels = 256 if cfg.MODEL.RESNETS.DEPTH < 50 else 1024
    return build_roi_heads(cfg, {"res4": ShapeSpec(channels=channels, stride=16)})


@pytest.mark.parametrize("norm", ["GN", "FrozenBN", "BN", ""])
@pytest.mark.parametrize("options", [R50, X50], ids=["R50", "X50"])
def test_same_as_detectron2s(tiny_cfg, stock_cfg, assert_same_state, options, norm):
    cfg = tiny_cfg(*options, "MODEL.RESNETS.NORM", norm, c4=True)
    ours, theirs = _build(cfg), _build(stock_cfg(cfg))
    assert type(ours) is GNRes5ROIHeads
    assert type(theirs) is Res5ROIHeads
    assert_same_state(ours, theirs)
    x = torch.randn(2, 1024, 14, 14)
    assert torch.equal(ours.res5(x), theirs.res5(x))


@pytest.mark.parametrize(("options", "blocks"), [([], 2), (R34, 3)], ids=["R18", "R34"])
def test_basic_blocks(tiny_cfg, options, blocks):
    heads = _build(tiny_cfg(*options, c4=True))
    assert len(heads.res5) == blocks
    assert heads.res5(torch.randn(2, 256, 14, 14)).shape == (2, 512, 7, 7)
    assert heads.box_predictor.cls_score.in_features == 512
    assert heads.mask_head.deconv.in_channels == 512


@pytest.mark.parametrize("norm", ["GN", "LN", "IN", "BN", "FrozenBN", ""])
def test_no_rois(tiny_cfg, norm):
    res5 = _build(tiny_cfg("MODEL.RESNETS.NORM", norm, c4=True)).res5
    x = torch.zeros(0, 256, 14, 14, requires_grad=True)
    y = res5(x)
    assert y.shape == (0, 512, 7, 7)
    y.sum().backward()
    for name, p in res5.named_parameters():
        assert torch.equal(p.grad, torch.zeros_like(p)), name


def test_gn_keys_are_obeyed(tiny_cfg):
    res5 = _build(tiny_cfg("MODEL.GN.NUM_GROUPS", 16, "MODEL.GN.EPS", 1e-3, c4=True)).res5
    norms = [m for m in res5.modules() if isinstance(m, nn.GroupNorm)]
    assert [(m.num_groups, m.eps) for m in norms] == [(16, 1e-3)] * 5


def test_zero_init_residual(tiny_cfg):
    res5 = _build(tiny_cfg("MODEL.GN.ZERO_INIT_RESIDUAL", True, c4=True)).res5
    x = torch.randn(2, 512, 7, 7)
    assert torch.equal(res5[1](x), x.relu())


def test_from_arguments_as_from_keys(tiny_cfg, assert_same_state):
    theirs = _build(tiny_cfg("MODEL.GN.CHANNELS_PER_GROUP", 8, c4=True)).res5
    torch.manual_seed(0)
    ours = build_res5(depth=18, norm=get_norm("GN", channels_per_group=8), channels_last=True)
    assert_same_state(ours, theirs)
    assert ours[1].conv2.norm.num_groups == 64
    assert ours(torch.zeros(2, 256, 4, 4)).shape == (2, 512, 2, 2)
    assert ours(torch.zeros(2, 256, 4, 4)).is_contiguous(memory_format=torch.channels_last)
