"""Whole models: beside Detectron2's, on inputs without objects or RoIs, and in the optimizer."""

import math

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    build_model,
)
from detectron2.solver import build_optimizer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from gn_det import modeling

R50 = ["MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256]
FROZEN = ["MODEL.RESNETS.NORM", "FrozenBN", "MODEL.FPN.NORM", ""]
FROZEN += ["MODEL.ROI_BOX_HEAD.NORM", "", "MODEL.ROI_MASK_HEAD.NORM", ""]


def _build(cfg, seed=0):
    torch.manual_seed(seed)
    return build_model(cfg)


def _losses(model, batch):
    """Run a training step with fixed sampling; return its losses, leave the gradients."""
    model.train()
    model.zero_grad()
    torch.manual_seed(1)
    with EventStorage(0):
        losses = model(batch)
    sum(losses.values()).backward()
    return {name: loss.detach() for name, loss in losses.items()}


def _predict(model, batch):
    model.eval()
    with torch.no_grad():
        return [output["instances"] for output in model(batch)]


@pytest.mark.parametrize(
    ("options", "c4"),
    [
        pytest.param([*R50, "MODEL.BACKBONE.FREEZE_AT", 2], False, id="R50-FPN-GN"),
        pytest.param(FROZEN, False, id="R18-FPN-FrozenBN"),
        pytest.param([*R50, "MODEL.BACKBONE.FREEZE_AT", 2], True, id="R50-C4-GN"),
    ],
)
def test_same_as_detectron2s(tiny_cfg, stock_cfg, assert_same_state, batch, options, c4):
    cfg = tiny_cfg(*options, c4=c4)
    stock = stock_cfg(cfg)
    ours, theirs = _build(cfg), _build(stock)
    assert_same_state(ours, theirs)
    other = [type(m) for m in theirs.modules() if type(m).__module__.startswith("gn_det")]
    assert not other
    # RoIAlign differs by its rounding (test_roi_heads.py); all else has the same bits
    for name in ("box_pooler", "mask_pooler", "pooler"):
        if hasattr(theirs.roi_heads, name):
            setattr(theirs.roi_heads, name, getattr(ours.roi_heads, name))

    a, b = _losses(ours, batch), _losses(theirs, batch)
    assert a.keys() == b.keys() >= {"loss_rpn_cls", "loss_cls", "loss_box_reg", "loss_mask"}
    for name in a:
        assert math.isfinite(a[name])
        assert torch.equal(a[name], b[name]), name
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters()):
        assert (p.grad is None) == (q.grad is None) == (not p.requires_grad), name
        assert p.grad is None or torch.equal(p.grad, q.grad), name

    # weights of another seed, both ways
    theirs.load_state_dict(_build(stock, seed=2).state_dict(), strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for x, y in zip(_predict(ours, batch), _predict(theirs, batch)):
        assert len(x) == len(y) > 0
        assert torch.equal(x.pred_boxes.tensor, y.pred_boxes.tensor)
        for field in ("scores", "pred_classes", "pred_masks"):
            assert torch.equal(x.get(field), y.get(field)), field


@pytest.mark.parametrize("c4", [False, True], ids=["FPN", "C4"])
@pytest.mark.parametrize("instances", [(0, 2), (0, 0)], ids=["one-empty", "all-empty"])
def test_images_without_objects_train(tiny_cfg, make_batch, c4, instances):
    model = _build(tiny_cfg(c4=c4))
    losses = _losses(model, make_batch(instances))
    assert all(math.isfinite(loss) for loss in losses.values()), losses
    for name, p in model.named_parameters():
        assert torch.isfinite(p.grad).all(), name
    if sum(instances) == 0:
        assert losses["loss_mask"] == losses["loss_box_reg"] == 0
        assert losses["loss_rpn_cls"] > 0  # there is background to learn from


@pytest.mark.parametrize("c4", [False, True], ids=["FPN", "C4"])
@pytest.mark.parametrize("rois", [(0, 8), (0, 0)], ids=["one-empty", "all-empty"])
def test_images_without_rois_train(tiny_cfg, make_batch, c4, rois):
    model = _build(tiny_cfg(c4=c4)).train()
    inputs = make_batch([2 if count else 0 for count in rois])  # true boxes become RoIs
    images = model.preprocess_image(inputs)
    proposals = []
    for count, size in zip(rois, images.image_sizes):
        corner = torch.rand(count, 2) * 30
        found = Instances(size)
        found.proposal_boxes = Boxes(torch.cat([corner, corner + 20], dim=1))
        found.objectness_logits = torch.zeros(count)
        proposals.append(found)
    with EventStorage(0):
        features = model.backbone(images.tensor)
        _, losses = model.roi_heads(images, features, proposals, [x["instances"] for x in inputs])
    assert all(math.isfinite(loss.detach()) for loss in losses.values()), losses
    sum(losses.values()).backward()
    for name, p in model.roi_heads.named_parameters():
        assert torch.isfinite(p.grad).all(), name
        assert sum(rois) > 0 or not p.grad.any(), name


@pytest.mark.parametrize("c4", [False, True], ids=["FPN", "C4"])
def test_images_without_detections(tiny_cfg, batch, c4):
    model = _build(tiny_cfg("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0, c4=c4))
    for found in _predict(model, batch):
        assert len(found) == 0
        assert found.pred_masks.shape == (0, 64, 96)


@pytest.mark.parametrize("norm", ["GN", "LN", "IN", "BN", "SyncBN"])
@pytest.mark.parametrize("c4", [False, True], ids=["FPN", "C4"])
def test_no_weight_decay_on_norms(tiny_cfg, norm, c4):
    keys = ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD")
    cfg = tiny_cfg(*[x for key in keys for x in (f"MODEL.{key}.NORM", norm)], c4=c4)
    assert (cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM) == (1e-4, 0.0)
    model = _build(cfg)
    optimizer = build_optimizer(cfg, model)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert len(decay) == len(list(model.parameters()))
    cls = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm}.get(norm, nn.GroupNorm)
    norms = [m for m in model.modules() if isinstance(m, cls)]
    assert len(norms) == (20 if c4 else 20 + 8 + 4 + 4)
    of_norms = {id(p) for m in norms for p in m.parameters()}
    assert len(of_norms) == 2 * len(norms)
    for name, p in model.named_parameters():
        assert decay[id(p)] == (0.0 if id(p) in of_norms else 1e-4), name


@pytest.mark.parametrize("norm", ["LN", "IN"])
def test_other_norms_train_and_predict(tiny_cfg, batch, norm):
    keys = ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD")
    model = _build(tiny_cfg(*[x for key in keys for x in (f"MODEL.{key}.NORM", norm)]))
    assert not any(isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d) for m in model.modules())
    assert all(math.isfinite(loss) for loss in _losses(model, batch).values())
    assert all(len(found) > 0 for found in _predict(model, batch))


@pytest.mark.parametrize(
    ("registry", "name", "ours"),
    [
        (BACKBONE_REGISTRY, "build_gn_resnet_backbone", modeling.build_gn_resnet_backbone),
        (BACKBONE_REGISTRY, "build_gn_resnet_fpn_backbone", modeling.build_gn_resnet_fpn_backbone),
        (BACKBONE_REGISTRY, "build_gn_vgg_backbone", modeling.build_gn_vgg_backbone),
        (BACKBONE_REGISTRY, "build_gn_vgg_fpn_backbone", modeling.build_gn_vgg_fpn_backbone),
        (META_ARCH_REGISTRY, "ImageClassifier", modeling.ImageClassifier),
        (ROI_BOX_HEAD_REGISTRY, "GNFastRCNNConvFCHead", modeling.GNFastRCNNConvFCHead),
        (
            ROI_MASK_HEAD_REGISTRY,
            "GNMaskRCNNConvUpsampleHead",
            modeling.GNMaskRCNNConvUpsampleHead,
        ),
        (ROI_HEADS_REGISTRY, "GNRes5ROIHeads", modeling.GNRes5ROIHeads),
        (ROI_HEADS_REGISTRY, "GNStandardROIHeads", modeling.GNStandardROIHeads),
    ],
)
def test_registered_names(registry, name, ours):
    assert registry.get(name) is ours
