"""MODEL.CHANNELS_LAST: what is copied, and that nothing else changes."""

import copy
import pickle
from collections import Counter

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gn_det import model_zoo
from gn_det.checkpoint import Checkpointer
from gn_det.modeling import GNRPNHead
from gn_det.modeling.channels_last import to_channels_last

R50 = ["MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256]
MODES = pytest.mark.parametrize("memory", ["standard", "lean", "minimal"])
PARTS = pytest.mark.parametrize("c4", [False, True], ids=["FPN", "C4"])

# operations that copy an input of another layout where nobody sees it, or carry it on
LAYOUT_MATTERS = {
    "convolution",
    "convolution_backward",
    "native_group_norm",
    "native_group_norm_backward",
    "relu",
    "relu_",
    "threshold_backward",
    "max_pool2d_with_indices",
    "max_pool2d_with_indices_backward",
    "upsample_nearest2d",
    "upsample_nearest2d_backward",
    "add",
    "add_",
    "addcmul",
}
COPIES = {"clone", "copy_", "_to_copy"}


class LayoutWatch(TorchDispatchMode):
    """Counts operations that meet feature maps in another layout than channels_last.

    Attributes:
        copies: (N, C, H, W) of maps that an operation of COPIES brings into another layout.
        mixed: (operation, (C, H, W)) of one of LAYOUT_MATTERS with such a map, in or out.
    """

    def __init__(self):
        super().__init__()
        self.copies, self.mixed = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in LAYOUT_MATTERS:
            for tensor in tree_leaves((args, out)):
                if _is_map(tensor) and not _is_last(tensor):
                    self.mixed[name, tuple(tensor.shape[1:])] += 1
        if name in COPIES:
            source, target = (args[1], args[0]) if name == "copy_" else (args[0], out)
            if _is_map(source) and _is_last(source) != _is_last(target):
                self.copies[tuple(source.shape)] += 1
        return out


def _is_map(x):
    # with one channel or one pixel both layouts are the same
    return isinstance(x, torch.Tensor) and x.dim() == 4 and x.numel() and min(_sizes(x)) > 1


def _sizes(x):
    return x.shape[1], x.shape[2] * x.shape[3]


def _is_last(x):
    return x.is_contiguous(memory_format=torch.channels_last)


def _build(cfg, seed=0):
    torch.manual_seed(seed)
    return build_model(cfg)


def _parts(model):
    heads = model.roi_heads
    shared = heads.res5 if hasattr(heads, "res5") else heads.box_head
    return [model.backbone, model.proposal_generator.rpn_head, shared, heads.mask_head]


def _converted(model):
    model = copy.deepcopy(model)
    for part in _parts(model):
        to_channels_last(part)
    return model


def _losses(model, batch, amp=False):
    model.train()
    model.zero_grad()
    torch.manual_seed(1)
    with EventStorage(0), torch.autocast("cpu", torch.bfloat16, enabled=amp):
        return model(batch)


@pytest.mark.parametrize("amp", [False, True], ids=["fp32", "bf16"])
@MODES
def test_copies_of_a_training_step(tiny_cfg, batch, memory, amp, request):
    if amp:
        request.getfixturevalue("fast_bfloat16")
    model = _converted(_build(tiny_cfg("MODEL.GN.MEMORY", memory)))
    with LayoutWatch() as forward:
        losses = _losses(model, batch, amp)
    # the batch of images at the entry; box features for the fully connected layer, whose weights
    # have them in the order C, H, W
    assert forward.copies == {(2, 3, 64, 96): 1, (16, 64, 7, 7): 1}
    assert not forward.mixed
    with LayoutWatch() as backward:
        sum(losses.values()).backward()
    # gradients as the losses give them: of RPN's predictors, cut out of all levels' outputs; of
    # the mask logits, filled in for one class; and as the fully connected layer gives it. What
    # takes them in gives channels_last on.
    logits = {("convolution_backward", shape[1:]) for shape in _prediction_shapes()}
    assert set(backward.mixed) == logits | {("threshold_backward", (64, 7, 7))}
    # the copy for the fully connected layer is recomputed as well
    assert set(backward.copies) == (set() if memory == "standard" else {(16, 64, 7, 7)})


def _prediction_shapes():
    for height, width in ((16, 24), (8, 12), (4, 6), (2, 3), (1, 2)):
        yield from ((2, channels, height, width) for channels in (3, 12))
    yield 4, 5, 28, 28


def test_copies_of_a_c4_model(tiny_cfg, batch):
    model = _converted(_build(tiny_cfg(c4=True)))
    with LayoutWatch() as forward:
        losses = _losses(model, batch)
    assert forward.copies == {(2, 3, 64, 96): 1}
    assert not forward.mixed
    with LayoutWatch() as backward:
        sum(losses.values()).backward()
    assert not backward.copies
    # the mean over a RoI's pixels has one gradient for all of them
    of_mean = {("add", (512, 7, 7)), ("threshold_backward", (512, 7, 7))}
    assert set(backward.mixed) == {("convolution_backward", (5, 14, 14))} | of_mean


def test_copies_of_inference(tiny_cfg, batch):
    model = _converted(_build(tiny_cfg(*R50))).eval()
    with LayoutWatch() as watch, torch.no_grad():
        assert all(len(found["instances"]) for found in model(batch))
    assert watch.copies.pop((2, 3, 64, 96)) == 1
    assert len(watch.copies) == 1  # the box features of all proposals
    assert {shape[1:] for shape in watch.copies} == {(64, 7, 7)}
    assert not watch.mixed


def test_watch_sees_what_it_is_for(tiny_cfg, batch):
    with LayoutWatch() as watch:
        sum(_losses(_build(tiny_cfg()), batch).values()).backward()
    seen = {name for name, _ in watch.mixed}
    assert {"convolution", "native_group_norm", "native_group_norm_backward", "relu_"} <= seen
    model = _converted(_build(tiny_cfg()))
    model.backbone.bottom_up.res3.register_forward_hook(lambda m, x, y: y.contiguous())
    with LayoutWatch() as watch:
        _losses(model, batch)
    assert watch.copies[2, 128, 8, 12] == 1
    assert watch.mixed["convolution", (128, 8, 12)] > 0


@PARTS
def test_same_results_up_to_rounding(tiny_cfg, batch, c4):
    # in float64, where rounding brings no input of ReLU across 0
    plain = _build(tiny_cfg(c4=c4)).double()
    last = _converted(plain)
    proposals = _proposals(batch)
    results = []
    for model in (plain, last):
        # of near ties between its own boxes, rounding would choose others
        model.proposal_generator.predict_proposals = lambda *inputs: proposals
        losses = _losses(model, batch)
        sum(losses.values()).backward()
        grads = {name: p.grad for name, p in model.named_parameters()}
        model.eval()
        with torch.no_grad():
            features = model.backbone(model.preprocess_image(batch).tensor)
        results.append((losses, grads, features))
    for (name, a), b in zip(results[0][0].items(), results[1][0].values()):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=0, msg=name)
    for (name, a), b in zip(results[0][1].items(), results[1][1].values()):
        assert (a - b).abs().max() <= 1e-9 * a.abs().max() + 1e-15, name
    for (name, a), b in zip(results[0][2].items(), results[1][2].values()):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=name)
        assert _is_last(b)
        assert not _is_last(a)


def _proposals(batch):
    found = []
    for image in batch:
        truth = image["instances"]
        proposals = Instances(truth.image_size)
        near = truth.gt_boxes.tensor + torch.tensor([1.0, 2.0, 3.0, 4.0])
        far = torch.tensor([[5.0, 5.0, 60.0, 50.0], [40.0, 3.0, 90.0, 30.0]])
        proposals.proposal_boxes = Boxes(torch.cat([near, far]))
        proposals.objectness_logits = torch.zeros(len(near) + len(far))
        found.append(proposals)
    return found


@PARTS
def test_weights_change_their_layout_alone(tiny_cfg, c4, assert_same_state, tmp_path):
    cfg = tiny_cfg(c4=c4)
    plain = _build(cfg)
    last = _converted(plain)
    assert_same_state(last, plain)
    convs = [m for m in last.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert len(convs) > 20
    assert all(_is_last(conv.weight) for conv in convs)
    # a file of each, read into the other
    for source, target, name in ((last, plain, "last"), (plain, last, "plain")):
        strides = [p.stride() for p in target.parameters()]
        Checkpointer(source, str(tmp_path)).save(name)
        with torch.no_grad():
            for p in target.parameters():
                p.zero_()
        Checkpointer(target, cfg=cfg).load(str(tmp_path / f"{name}.pth"))
        assert_same_state(source, target)
        assert [p.stride() for p in target.parameters()] == strides


def test_an_optimizer_takes_the_same_steps(tiny_cfg, batch):
    models = [_build(tiny_cfg())]
    models.append(_converted(models[0]))
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        for _ in range(2):
            sum(_losses(model, batch).values()).backward()
            optimizer.step()
    for (name, p), q in zip(models[0].named_parameters(), models[1].parameters()):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4, msg=name)
    convs = [m for m in models[1].modules() if isinstance(m, nn.Conv2d)]
    assert all(_is_last(conv.weight) for conv in convs)


def test_copies_of_a_model_are_whole(tiny_cfg):
    model = _converted(_build(tiny_cfg())).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.backbone(x)["p3"]
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            with LayoutWatch() as watch:
                y = other.backbone(x)["p3"]
            assert torch.equal(y, expected)
            assert watch.copies == {(1, 3, 64, 64): 1}
            assert not watch.mixed


def test_again_changes_nothing():
    conv = nn.Conv2d(4, 4, 3)
    to_channels_last(conv)
    weight = conv.weight.data_ptr()
    to_channels_last(conv)
    assert conv.weight.data_ptr() == weight
    assert len(conv._forward_pre_hooks) == 1


def test_traces(tiny_cfg):
    backbone = _build(tiny_cfg()).backbone.eval()
    to_channels_last(backbone)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        traced = torch.jit.trace(backbone, x, strict=False)
        for name, y in traced(2 * x).items():
            expected = backbone(2 * x)[name]
            assert (y - expected).abs().max() < 1e-4 * expected.abs().max()


def test_no_rois(tiny_cfg):
    model = _converted(_build(tiny_cfg()))
    head = model.roi_heads.box_head.train()
    y = head(torch.zeros(0, 64, 7, 7, requires_grad=True))
    y.sum().backward()
    assert y.shape == (0, 64)
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in head.parameters())


def test_other_weights_and_inputs_are_left_alone():
    class Deformable(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))

        def forward(self, x, boxes, names):
            return x, boxes, names

    layer = Deformable()
    to_channels_last(layer)
    assert layer.weight.is_contiguous()
    x, boxes, names = torch.randn(2, 4, 3, 3), torch.randn(5, 4), ["a"]
    y, same_boxes, same_names = layer(x, boxes, names)
    assert _is_last(y)
    assert torch.equal(x, y)
    assert same_boxes is boxes
    assert same_names is names
    assert layer(y, boxes, names)[0].data_ptr() == y.data_ptr()


@pytest.mark.parametrize("standardized", [False, True])
@PARTS
def test_the_key_reaches_every_part(tiny_cfg, c4, standardized):
    options = ["MODEL.GN.WEIGHT_STANDARDIZATION", standardized]
    options += ["MODEL.RPN.HEAD_NAME", "GNRPNHead"]
    cfg = tiny_cfg("MODEL.CHANNELS_LAST", True, *options, c4=c4)
    _assert_last_everywhere(_build(cfg))
    plain = _build(tiny_cfg(*options, c4=c4))
    assert not any(part._forward_pre_hooks for part in _parts(plain))
    assert all(m.weight.is_contiguous() for m in plain.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    "name", ["mask_rcnn_R50_C4_gn.py", "mask_rcnn_R50_gn_all.py", "mask_rcnn_VGG16_gn_all.py"]
)
def test_one_argument_of_a_python_config_reaches_every_part(name):
    config = model_zoo.get_config(name).model
    config.backbone.channels_last = True
    rpn_head = config.proposal_generator.head
    if rpn_head._target_ is StandardRPNHead:
        rpn_head._target_ = GNRPNHead
        rpn_head.channels_last = True
    _assert_last_everywhere(instantiate(config))


def _assert_last_everywhere(model):
    convs = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert [n for n, conv in convs.items() if not _is_last(conv.weight)] == []
    assert all(part._forward_pre_hooks for part in _parts(model))
