import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import build_mask_head
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
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


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_bit_masks_are_cut_out_by_the_kernel(tiny_cfg, stock_cfg, monkeypatch, mode):
    """With deterministic algorithms, torchvision's RoIAlign is a formula with huge tensors."""
    cfg = tiny_cfg("MODEL.ROI_MASK_HEAD.NUM_CONV", 0)
    ours, theirs = _build(cfg), _build(stock_cfg(cfg))
    truth = Instances((32, 32))
    truth.proposal_boxes = Boxes(torch.tensor([[2.0, 3.0, 20.0, 30.0], [0.0, 0.0, 9.0, 9.0]]))
    truth.gt_classes = torch.tensor([1, 4])
    truth.gt_masks = BitMasks(torch.rand(2, 32, 32) < 0.5)
    x = torch.randn(2, 64, 14, 14)
    cut_out, modes = BitMasks.crop_and_resize, []

    def crop_and_resize(*args):
        modes.append(torch.get_deterministic_debug_mode())
        return cut_out(*args)

    monkeypatch.setattr(BitMasks, "crop_and_resize", crop_and_resize)
    torch.set_deterministic_debug_mode(mode)
    try:
        with EventStorage():
            assert ours(x, [truth]) == theirs(x, [truth])
        assert modes == [0, mode]
        monkeypatch.delattr(BitMasks, "crop_and_resize")
        with pytest.raises(AttributeError), EventStorage():
            ours(x, [truth])
        assert torch.get_deterministic_debug_mode() == mode
    finally:
        torch.set_deterministic_debug_mode(0)
