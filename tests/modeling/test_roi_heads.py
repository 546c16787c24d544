import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, build_roi_heads, poolers
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage

from gn_det.modeling import GNStandardROIHeads
from gn_det.modeling.poolers import ROIPooler

SIZE = (64, 96)


def _build(cfg):
    torch.manual_seed(0)
    shapes = {f"p{k}": ShapeSpec(channels=64, stride=2**k) for k in range(2, 7)}
    if "Res5" in cfg.MODEL.ROI_HEADS.NAME:
        shapes = {"res4": ShapeSpec(channels=cfg.MODEL.RESNETS.RES2_OUT_CHANNELS * 4, stride=16)}
    return build_roi_heads(cfg, shapes)


def _features(heads, dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    c4 = heads.in_features == ["res4"]
    strides = {"res4": 16} if c4 else {f"p{k}": 2**k for k in range(2, 7)}
    return {
        name: torch.randn(2, 1024 if c4 else 64, SIZE[0] // s, SIZE[1] // s, generator=rng)
        .to(dtype)
        .requires_grad_()
        for name, s in strides.items()
    }


def _proposals(instances):
    """Return two boxes of each of five sizes for each image."""
    rng = torch.Generator().manual_seed(0)
    found = []
    for _ in instances:
        corner = torch.rand(10, 2, generator=rng) * 40
        size = torch.tensor([4, 8, 16, 32, 60]).repeat(2)[:, None]
        proposals = Instances(SIZE)
        proposals.proposal_boxes = Boxes(torch.cat([corner, corner + size], dim=1))
        proposals.proposal_boxes.clip(SIZE)
        proposals.objectness_logits = torch.zeros(10)
        found.append(proposals)
    return found


def _losses(heads, batch, dtype=torch.float32):
    """Return the losses and the gradients of features and parameters."""
    truth = [x["instances"] for x in batch]
    images = ImageList(torch.zeros(2, 3, *SIZE), [SIZE] * 2)
    features = _features(heads, dtype)
    heads.train()
    torch.manual_seed(1)
    with EventStorage(0), torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        _, losses = heads(images, features, _proposals(truth), truth)
    wanted = [features[name] for name in heads.in_features] + list(heads.parameters())
    return losses, torch.autograd.grad(sum(losses.values()), wanted)


R50 = ["MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256]
OTHER = [
    *("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlign", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 5),
    *("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 2, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 9),
]


@pytest.mark.parametrize(
    ("options", "c4"), [([], False), (OTHER, False), (R50, True)], ids=["FPN", "other", "C4"]
)
def test_same_as_detectron2s(tiny_cfg, stock_cfg, assert_same_state, batch, options, c4):
    cfg = tiny_cfg(*options, c4=c4)
    ours, theirs = _build(cfg), _build(stock_cfg(cfg))
    assert_same_state(ours, theirs)
    assert _pooler_types(theirs) == {poolers.ROIPooler}
    assert _pooler_types(ours) == {ROIPooler}

    (a, a_grads), (b, b_grads) = _losses(ours, batch), _losses(theirs, batch)
    assert a.keys() == b.keys() == {"loss_cls", "loss_box_reg", "loss_mask"}
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)
    assert b_grads[0].any()
    for x, y in zip(a_grads, b_grads):
        assert (x - y).norm() <= 1e-3 * y.norm()

    images = ImageList(torch.zeros(2, 3, *SIZE), [SIZE] * 2)
    found = []
    for heads in (ours.eval(), theirs.eval()):
        with torch.no_grad():
            found.append(heads(images, _features(heads), _proposals(batch))[0])
    for x, y in zip(*found):
        assert len(x) == len(y) == 5
        assert torch.equal(x.pred_classes, y.pred_classes)
        torch.testing.assert_close(x.pred_boxes.tensor, y.pred_boxes.tensor, rtol=0, atol=1e-3)
        torch.testing.assert_close(x.pred_masks, y.pred_masks, rtol=0, atol=1e-4)


def _pooler_types(heads):
    return {type(m) for m in heads.modules() if isinstance(m, poolers.ROIPooler)}


def test_bfloat16_trains(tiny_cfg, batch):
    heads = _build(tiny_cfg())
    assert type(heads) is GNStandardROIHeads
    exact, _ = _losses(heads, batch)
    losses, grads = _losses(heads, batch, torch.bfloat16)
    assert all(g.isfinite().all() for g in grads)
    assert {g.dtype for g in grads} == {torch.bfloat16, torch.float32}  # features, parameters
    for name, loss in losses.items():
        torch.testing.assert_close(loss, exact[name], rtol=0.05, atol=0.05)


def test_names_in_configs(tiny_cfg):
    """The base config has ours; a user's own with Detectron2's name stays with Detectron2's."""
    cfg = tiny_cfg()
    assert cfg.MODEL.ROI_HEADS.NAME == "GNStandardROIHeads"
    assert ROI_HEADS_REGISTRY.get("GNStandardROIHeads") is GNStandardROIHeads
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    heads = _build(cfg)
    assert type(heads) is StandardROIHeads
    assert _pooler_types(heads) == {poolers.ROIPooler}


def test_without_masks_and_with_keypoints(tiny_cfg):
    heads = _build(tiny_cfg("MODEL.MASK_ON", False, "MODEL.KEYPOINT_ON", True))
    assert not hasattr(heads, "mask_pooler")
    assert type(heads.keypoint_pooler) is ROIPooler
    assert heads.keypoint_pooler.output_size == (14, 14)
