"""GNRPNHead: Detectron2's, and in lean mode without keeping p2 to p5."""

import torch
from detectron2.modeling import build_model

from gn_det.engine.memory_meter import MemoryMeter
from gn_det.modeling import GNRPNHead


def test_does_not_keep_what_a_lean_fpn_can_make_again(tiny_cfg):
    x = torch.rand(1, 3, 64, 64)
    saved, grads = {}, {}
    for name in ("StandardRPNHead", "GNRPNHead"):
        cfg = tiny_cfg("MODEL.GN.MEMORY", "lean", "MODEL.RPN.HEAD_NAME", name)
        torch.manual_seed(0)
        model = build_model(cfg)
        head = model.proposal_generator.rpn_head
        assert isinstance(head, GNRPNHead) == (name == "GNRPNHead")
        with MemoryMeter() as meter:
            features = model.backbone(x)
            logits, deltas = head([features[f"p{k}"] for k in range(2, 7)])
            del features
        saved[name] = meter.alive_bytes()
        sum(t.square().sum() for t in logits + deltas).backward()
        grads[name] = [p.grad for p in model.parameters() if p.grad is not None]
    # p5 is saved by the pooling to p6 anyhow
    assert saved["StandardRPNHead"] - saved["GNRPNHead"] == sum(
        4 * 64 * (64 // stride) ** 2 for stride in (4, 8, 16)
    )
    assert len(grads["GNRPNHead"]) == len(grads["StandardRPNHead"]) > 0
    assert all(map(torch.equal, grads["GNRPNHead"], grads["StandardRPNHead"]))


def test_minimal_saves_only_its_inputs(tiny_cfg):
    features = [torch.rand(1, 64, 16 // 2**k, 16 // 2**k) for k in range(3)]
    saved, grads = {}, {}
    for mode in ("standard", "minimal"):
        torch.manual_seed(0)
        model = build_model(tiny_cfg("MODEL.GN.MEMORY", mode))
        head = model.proposal_generator.rpn_head
        inputs = [x.clone().requires_grad_() for x in features]
        with MemoryMeter() as meter:
            logits, deltas = head(inputs)
        saved[mode] = meter.alive_bytes()
        sum(t.square().sum() for t in logits + deltas).backward()
        grads[mode] = [t.grad for t in (*inputs, *head.parameters())]
    # the output of the 3x3 convolution and ReLU
    assert saved["standard"] - saved["minimal"] == sum(4 * x.numel() for x in features)
    assert all(map(torch.equal, grads["minimal"], grads["standard"]))


def test_features_of_another_backbone(tiny_cfg):
    cfg = tiny_cfg("MODEL.RPN.HEAD_NAME", "GNRPNHead")
    head = build_model(cfg).proposal_generator.rpn_head
    x = torch.rand(1, 64, 4, 4, requires_grad=True)
    logits, deltas = head([x, x])
    assert (len(logits), len(deltas)) == (2, 2)
    sum(t.sum() for t in logits + deltas).backward()
    assert x.grad is not None
