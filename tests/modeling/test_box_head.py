import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, build_box_head
from torch import nn

from gn_det.modeling import GNFastRCNNConvFCHead

SHAPE = ShapeSpec(channels=64, height=7, width=7)


def _build(cfg):
    torch.manual_seed(0)
    return build_box_head(cfg, SHAPE)


@pytest.mark.parametrize("norm", ["GN", "BN", "FrozenBN", ""])
@pytest.mark.parametrize(("convs", "fcs"), [(4, 1), (0, 2), (2, 0)])
def test_same_as_detectron2s(tiny_cfg, stock_cfg, assert_same_state, norm, convs, fcs):
    cfg = tiny_cfg(
        *("MODEL.ROI_BOX_HEAD.NORM", norm),
        *("MODEL.ROI_BOX_HEAD.NUM_CONV", convs),
        *("MODEL.ROI_BOX_HEAD.NUM_FC", fcs),
    )
    ours, theirs = _build(cfg), _build(stock_cfg(cfg))
    assert type(ours) is GNFastRCNNConvFCHead
    assert type(theirs) is FastRCNNConvFCHead
    assert_same_state(ours, theirs)
    assert ours.output_shape == theirs.output_shape
    x = torch.randn(5, 64, 7, 7)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("norm", ["GN", "LN", "IN", "BN", "FrozenBN", ""])
def test_no_rois(tiny_cfg, norm):
    head = _build(tiny_cfg("MODEL.ROI_BOX_HEAD.NORM", norm))
    x = torch.zeros(0, 64, 7, 7, requires_grad=True)
    y = head(x)
    assert y.shape == (0, 64)
    y.sum().backward()
    assert x.grad.shape == x.shape
    for name, p in head.named_parameters():
        assert torch.equal(p.grad, torch.zeros_like(p)), name


def test_gn_keys_are_obeyed(tiny_cfg):
    head = _build(tiny_cfg("MODEL.GN.CHANNELS_PER_GROUP", 16, "MODEL.GN.EPS", 1e-3))
    norms = [m for m in head.modules() if isinstance(m, nn.GroupNorm)]
    assert [(m.num_groups, m.eps) for m in norms] == [(4, 1e-3)] * 4


@pytest.mark.parametrize(("norm", "bias"), [("", True), ("GN", False)])
def test_bias_where_there_is_no_norm(tiny_cfg, norm, bias):
    head = _build(tiny_cfg("MODEL.ROI_BOX_HEAD.NORM", norm))
    assert [conv.bias is not None for conv in head.conv_norm_relus] == [bias] * 4
