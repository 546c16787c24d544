import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import build_mask_head
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import nn

from gn_det.modeling import GNMaskRCNNConvUpsampleHead

SHAPE = ShapeSpec(channels=64, height=14, width=14)


def _build(cfg):
    torch.manual_seed(0)
    return build_mask_head(cfg, SHAPE)


@pytest.mark.parametrize("norm", ["GN", "BN", "FrozenBN", ""])
@pytest.mark.parametrize("convs", [4, 0])
@pytest.mark.parametrize("agnostic", [False, True])
def test_same_as_detectron2s(tiny_cfg, stock_cfg, assert_same_state, norm, convs, agnostic):
    cfg = tiny_cfg(
        *("MODEL.ROI_MASK_HEAD.NORM", norm),
        *("MODEL.ROI_MASK_HEAD.NUM_CONV", convs),
        *("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", agnostic),
    )
    ours, theirs = _build(cfg), _build(stock_cfg(cfg))
    assert type(ours) is GNMaskRCNNConvUpsampleHead
    assert type(theirs) is MaskRCNNConvUpsampleHead
    assert_same_state(ours, theirs)
    x = torch.randn(3, 64, 14, 14)
    y = ours.layers(x)
    assert y.shape == (3, 1 if agnostic else 5, 28, 28)
    assert torch.equal(y, theirs.layers(x))


@pytest.mark.parametrize("norm", ["GN", "LN", "IN", "BN", "FrozenBN", ""])
def test_no_rois(tiny_cfg, norm):
    head = _build(tiny_cfg("MODEL.ROI_MASK_HEAD.NORM", norm))
    x = torch.zeros(0, 64, 14, 14, requires_grad=True)
    y = head.layers(x)
    assert y.shape == (0, 5, 28, 28)
    y.sum().backward()
    assert x.grad.shape == x.shape
    for name, p in head.named_parameters():
        assert torch.equal(p.grad, torch.zeros_like(p)), name


def test_gn_keys_are_obeyed(tiny_cfg):
    head = _build(tiny_cfg("MODEL.GN.NUM_GROUPS", 8, "MODEL.GN.EPS", 1e-3))
    norms = [m for m in head.modules() if isinstance(m, nn.GroupNorm)]
    assert [(m.num_groups, m.eps) for m in norms] == [(8, 1e-3)] * 4


@pytest.mark.parametrize(("norm", "bias"), [("", True), ("GN", False)])
def test_bias_where_there_is_no_norm(tiny_cfg, norm, bias):
    head = _build(tiny_cfg("MODEL.ROI_MASK_HEAD.NORM", norm))
    assert [conv.bias is not None for conv in head.conv_norm_relus] == [bias] * 4
    # upsampling and prediction have no norm in the paper's models
    assert head.deconv.bias is not None
    assert head.predictor.norm is None
