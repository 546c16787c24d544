"""MODEL.GN.MEMORY: losses and gradients equal to the bit, and fewer bytes saved for backward."""

import copy

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

from gn_det.engine.memory_meter import MemoryMeter
from gn_det.modeling.activation_checkpointing import (
    recompute,
    recomputing,
    set_memory,
    tag_recomputable,
)

R50 = ["MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256]
FROZEN_STAGES = ["MODEL.BACKBONE.FREEZE_AT", 2]
UP_TO_RES4 = [
    *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4"]),
    *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4"]),
    *("MODEL.RPN.IN_FEATURES", ["p3", "p4", "p5"]),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64]]),
    *("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4"]),
]
MODES = ("lean", "minimal")


class _Convolutions(TorchDispatchMode):
    """Counts the convolutions that are run forward."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket is torch.ops.aten.convolution
        return func(*args, **(kwargs or {}))


def _build(cfg, mode):
    cfg = cfg.clone()
    cfg.MODEL.GN.MEMORY = mode
    torch.manual_seed(0)
    return build_model(cfg).train()


def _step(model, batch, autocast=False, accumulate=1):
    model.zero_grad()
    for i in range(accumulate):
        torch.manual_seed(i)
        with EventStorage(0), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            losses = model(batch)
        sum(losses.values()).backward()
    return {name: loss.detach() for name, loss in losses.items()}


def _assert_same_step(model, standard, batch, **kwargs):
    ours, theirs = _step(model, batch, **kwargs), _step(standard, batch, **kwargs)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    grads = 0
    for (name, p), q in zip(model.named_parameters(), standard.parameters()):
        assert (p.grad is None) == (q.grad is None), name
        if q.grad is not None:
            grads += 1
            assert torch.equal(p.grad, q.grad), name
    assert grads


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("options", "c4"),
    [
        pytest.param([], False, id="R18"),
        pytest.param([*R50, *FROZEN_STAGES], False, id="R50-frozen-stages"),
        pytest.param(R50, True, id="R50-C4"),
        pytest.param([*R50, "MODEL.GN.WEIGHT_STANDARDIZATION", True], False, id="R50-WS"),
        pytest.param([*R50, "MODEL.FPN.FUSE_TYPE", "avg"], False, id="R50-avg"),
        pytest.param(["MODEL.FPN.NORM", "", "MODEL.ROI_BOX_HEAD.NORM", ""], False, id="mixed"),
        pytest.param(UP_TO_RES4, False, id="up-to-res4-no-anchors-on-p2"),
        pytest.param(["MODEL.RESNETS.NORM", "FrozenBN"], False, id="FrozenBN-backbone"),
        pytest.param(["MODEL.RESNETS.NORM", "BN"], False, id="BN-backbone"),
        pytest.param(["MODEL.ROI_BOX_HEAD.NUM_FC", 0], False, id="no-fc"),
        pytest.param(["MODEL.ROI_MASK_HEAD.NUM_CONV", 0], False, id="mask-head-without-convs"),
    ],
)
def test_gradients_are_bit_equal(tiny_cfg, batch, mode, options, c4):
    cfg = tiny_cfg(*options, c4=c4)
    model, standard = _build(cfg, mode), _build(cfg, "standard")
    assert list(model.state_dict()) == list(standard.state_dict())
    _assert_same_step(model, standard, batch)
    # unfrozen BN has counted the batch once
    for a, b in zip(model.buffers(), standard.buffers()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("mode", MODES)
def test_autocast_and_accumulation(tiny_cfg, batch, mode, fast_bfloat16):
    cfg = tiny_cfg(*R50)
    model, standard = _build(cfg, mode), _build(cfg, "standard")
    _assert_same_step(model, standard, batch, autocast=True, accumulate=2)


@pytest.mark.parametrize("mode", MODES)
def test_images_without_objects_or_rois(tiny_cfg, make_batch, mode):
    cfg = tiny_cfg("MODEL.ROI_HEADS.IOU_THRESHOLDS", [1.1])  # not even the objects are found
    batch = make_batch(instances=(0, 0))
    model, standard = _build(cfg, mode), _build(cfg, "standard")
    _assert_same_step(model, standard, batch)
    for name, size in (("box_head", 7), ("mask_head", 14)):
        grads = []
        for m in (model, standard):
            head = getattr(m.roi_heads, name)
            head.zero_grad()
            x = torch.zeros(0, 64, size, size, requires_grad=True)
            y = head(x) if name == "box_head" else head.layers(x)
            assert len(y) == 0
            y.sum().backward()
            assert x.grad.shape == x.shape
            grads.append([p.grad for p in head.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*grads))


@pytest.mark.parametrize("mode", MODES)
def test_copies_and_averages(tiny_cfg, batch, mode):
    model = _build(tiny_cfg(), mode)
    _step(model, batch)
    averaged = AveragedModel(model)
    _assert_same_step(copy.deepcopy(model), model, batch)
    _assert_same_step(averaged.module, model, batch)


def test_distributed_data_parallel(tiny_cfg, batch, tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        for mode in MODES:
            cfg = tiny_cfg()
            model, standard = (DistributedDataParallel(_build(cfg, m)) for m in (mode, "standard"))
            _assert_same_step(model, standard, batch)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("mode", MODES)
def test_nothing_happens_in_eval(tiny_cfg, batch, mode, monkeypatch):
    model, standard = _build(tiny_cfg(), mode).eval(), _build(tiny_cfg(), "standard").eval()

    def fail(*_args, **_kwargs):
        raise AssertionError("checkpoint in eval()")

    monkeypatch.setattr("gn_det.modeling.activation_checkpointing.checkpoint", fail)
    with torch.no_grad():
        for ours, theirs in zip(model(batch), standard(batch)):
            ours, theirs = ours["instances"], theirs["instances"]
            assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
            assert torch.equal(ours.pred_masks, theirs.pred_masks)
    # gradients through eval() are standard as well
    model.backbone(torch.rand(1, 3, 64, 64))["p2"].sum().backward()


def _saved_and_recomputed(cfg, mode, x):
    model = _build(cfg, mode)
    with MemoryMeter() as meter:
        features = model.backbone(x)
    saved = meter.alive_bytes() - sum(f.untyped_storage().nbytes() for f in features.values())
    with _Convolutions() as recomputed:
        sum(f.sum() for f in features.values()).backward()
    return saved, recomputed.count


def test_backbone_saves_no_more_than_frozen_bn(tiny_cfg):
    # a bottleneck saves x and two inner tensors, a quarter of what stock GN saves
    x = torch.rand(1, 3, 64, 64)
    cfg = tiny_cfg(*R50, *FROZEN_STAGES)
    frozen = tiny_cfg(*R50, *FROZEN_STAGES, "MODEL.RESNETS.NORM", "FrozenBN", "MODEL.FPN.NORM", "")
    of_frozen, _ = _saved_and_recomputed(frozen, "standard", x)
    standard, none = _saved_and_recomputed(cfg, "standard", x)
    lean, in_lean = _saved_and_recomputed(cfg, "lean", x)
    minimal, in_minimal = _saved_and_recomputed(cfg, "minimal", x)
    assert none == 0
    # the last convolution of 13 blocks in res3 to res5, 3 shortcuts, the output convolutions
    # of p5 to p3; the 3x3 ones of blocks, and p2's, never
    assert in_lean == 13 + 3 + 3
    # the RPN head recomputes p2 to p5: without them lean is below FrozenBN (test_rpn_head)
    outputs = sum(4 * 64 * (64 // s) ** 2 for s in (4, 8, 16, 32))
    assert minimal < lean <= of_frozen + outputs + 2**16 < standard
    # all 42 of the blocks, 4 laterals and 4 outputs of the FPN
    assert in_minimal > 42 + 8 - 4


def test_recomputation_stops_at_the_last_tensor_that_is_needed():
    conv = nn.Conv2d(2, 2, 1)
    norm = nn.GroupNorm(1, 2)
    x = torch.rand(1, 2, 4, 4, requires_grad=True)
    y = recompute(lambda t: conv(torch.relu(norm(t))), x)
    with _Convolutions() as recomputed:
        y.sum().backward()
    assert recomputed.count == 0
    grad = x.grad.clone()
    x.grad = None
    conv(torch.relu(norm(x))).sum().backward()
    assert torch.equal(x.grad, grad)


def test_a_graph_without_a_backward_is_freed():
    """A step may fail between forward and backward, and the next one needs the memory."""
    norm, conv = nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1)
    with MemoryMeter() as meter:
        y = tag_recomputable(norm, torch.rand(1, 4, 8, 8, requires_grad=True), [norm])
        with recomputing([y]):
            z = conv(y).relu()  # ReLU saves its own output
        assert meter.alive_bytes() > 0
        del y, z
    assert meter.alive_bytes() == 0


def test_recomputing_does_not_save_tagged_tensors():
    norm, conv = nn.GroupNorm(1, 64), nn.Conv2d(64, 2, 1)
    saved = {}
    for tagged in (False, True):
        x = torch.ones(1, 64, 8, 8, requires_grad=True)
        with MemoryMeter() as meter:
            y = tag_recomputable(norm, x * 2) if tagged else norm(x * 2)
            other = x * 3  # is not tagged, so it is saved
            with recomputing([y, other]):
                z = conv(y).sum() + conv(other).sum()
            del y, other
        saved[tagged] = meter.alive_bytes()
        z.backward()
        saved[tagged, "grad"] = (x.grad, conv.weight.grad.clone())
        conv.zero_grad()
    assert saved[False] - saved[True] == 64 * 8 * 8 * 4
    assert all(map(torch.equal, saved[False, "grad"], saved[True, "grad"]))


def test_set_memory_follows_the_norms():
    class Part(nn.Sequential):
        memory = "standard"

    cases = [
        (nn.GroupNorm(1, 2), {"lean": "lean", "minimal": "minimal"}),
        (nn.BatchNorm2d(2), {"lean": "standard", "minimal": "standard"}),
        (FrozenBatchNorm2d(2), {"lean": "standard", "minimal": "minimal"}),
    ]
    for norm, expected in cases:
        for mode, got in expected.items():
            part = Part(norm)
            set_memory(part, mode)
            assert part.memory == got
    with pytest.raises(ValueError, match=r"MODEL.GN.MEMORY is 'small'; known are standard, lean"):
        set_memory(Part(), "small")
