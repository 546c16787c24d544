import math
from collections import Counter

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model, poolers
from detectron2.structures import Boxes, Instances
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from gn_det import get_cfg
from gn_det.layers import pyramid_roi_align
from gn_det.layers.kernels import roi_align as kernels
from gn_det.layers.kernels import support
from gn_det.layers.kernels.roi_align import Sampling
from gn_det.modeling import poolers as ours
from gn_det.modeling.poolers import ROIAlign, ROIPooler, pooler_from_cfg

SCALES = (1 / 4, 1 / 8, 1 / 16)
SAMPLING = (*SCALES, 1 / 32), (7, 7), 0, True

WHY_NOT_ON_GPU = support._why_not_device(torch.device("cuda"))


def _features(dtype=torch.float32, memory_format=torch.contiguous_format):
    rng = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 8, 256 // s, 512 // s, generator=rng) for s in (4, 8, 16)]
    return [x.to(dtype=dtype, memory_format=memory_format).requires_grad_() for x in maps]


def _boxes(*counts, seed=1):
    rng = torch.Generator().manual_seed(seed)
    found = []
    for count in counts:
        corner = torch.rand(count, 2, generator=rng) * torch.tensor([400.0, 200.0])
        size = 2 ** (2 + 6 * torch.rand(count, 2, generator=rng))
        found.append(Boxes(torch.cat([corner, corner + size], dim=1)))
    return found


@pytest.mark.parametrize("pooler_type", ["ROIAlignV2", "ROIAlign"])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("counts", [(30, 20), (0, 40), (0, 0)], ids=str)
@pytest.mark.parametrize("levels", [3, 1])
def test_same_as_detectron2s(levels, counts, sampling_ratio, pooler_type):
    features, boxes = _features()[:levels], _boxes(*counts)
    args = (7, SCALES[:levels], sampling_ratio, pooler_type)
    # a size between the boxes', so that there are some for each level
    ours, theirs = (cls(*args, canonical_box_size=64) for cls in (ROIPooler, poolers.ROIPooler))
    a, b = ours(features, boxes), theirs(features, boxes)
    assert a.shape == b.shape == (sum(counts), 8, 7, 7)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    grad = torch.randn(a.shape)
    grads = zip(*(torch.autograd.grad(x, features, grad) for x in (a, b)))
    for x, y in grads:
        assert sum(counts) == 0 or y.any()
        torch.testing.assert_close(x, y, rtol=0, atol=1e-4 * max(1, y.abs().max().item()))
    assert not ours.state_dict()


def test_no_images():
    features = [x[:0] for x in _features()]
    assert ROIPooler(7, SCALES, 0, "ROIAlignV2")(features, []).shape == (0, 8, 7, 7)


def test_other_types_are_detectron2s():
    features, boxes = _features(), _boxes(9, 3)
    args = (7, SCALES, 0, "ROIPool")
    a, b = (cls(*args)(features, boxes) for cls in (ROIPooler, poolers.ROIPooler))
    assert torch.equal(a, b)
    with pytest.raises(ValueError, match="Unknown pooler type"):
        ROIPooler(7, SCALES, 0, "ROIAlignV3")


@pytest.mark.parametrize("autocast", [False, True])
def test_boxes_are_not_rounded_to_bfloat16(autocast):
    """Detectron2 has 257.25 as 258 there, which is another pixel."""
    row = (torch.arange(128.0) - 64).expand(2, 8, 64, 128)
    boxes = [Boxes(torch.tensor([[257.25, 40, 285.25, 68]])), Boxes(torch.zeros(0, 4))]
    centers = torch.arange(7) + 257.25 / 4 - 64  # of bins that are one pixel wide
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = ROIPooler(7, SCALES[:1], 0, "ROIAlignV2")([row.bfloat16()], boxes)
    assert torch.equal(out[0, 0], centers.bfloat16().expand(7, 7))
    with torch.autocast("cpu", torch.bfloat16):
        out = poolers.ROIPooler(7, SCALES[:1], 0, "ROIAlignV2")([row.bfloat16()], boxes)
    assert torch.equal(out[0, 0], (centers + 0.75 / 4).bfloat16().expand(7, 7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_level_as_on_other_devices(dtype):
    """The code that other devices and traced models run, with exact boxes too."""
    features, boxes = _features(dtype)[:1], _boxes(20, 10)
    rois = poolers.convert_boxes_to_pooler_format(boxes)
    pooler = ROIPooler(7, SCALES[:1], 0, "ROIAlignV2")
    (align,) = pooler.level_poolers
    assert type(align) is ROIAlign
    out = align(features[0], rois)
    assert out.dtype == dtype
    exact = features[0].float()
    wanted = poolers.ROIAlign(7, SCALES[0], 0, aligned=True)(exact, rois)
    assert torch.equal(out, wanted.to(dtype))
    torch.testing.assert_close(out, pooler(features, boxes), rtol=2**-7, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_channels_last(dtype):
    features = _features(dtype, torch.channels_last)
    out = ROIPooler(7, SCALES, 0, "ROIAlignV2")(features, _boxes(9, 3))
    assert out.is_contiguous(memory_format=torch.channels_last)
    for grad in torch.autograd.grad(out, features, torch.ones_like(out)):
        assert grad.is_contiguous(memory_format=torch.channels_last)


class _OneImage(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2", canonical_box_size=64)

    def forward(self, a, b, c, boxes):
        return self.pooler([a, b, c], [Boxes(boxes)])


@pytest.mark.filterwarnings("ignore")
def test_traced_with_other_boxes():
    features = [x[:1].detach() for x in _features()]
    module = _OneImage()
    traced = torch.jit.trace(module, (*features, _boxes(5)[0].tensor), check_trace=False)
    for count in (30, 1):
        boxes = _boxes(count, seed=2)[0].tensor
        wanted = module(*features, boxes)
        torch.testing.assert_close(traced(*features, boxes), wanted, rtol=0, atol=1e-4)


def test_from_cfg():
    node = get_cfg().MODEL.ROI_BOX_HEAD
    node.POOLER_RESOLUTION, node.POOLER_SAMPLING_RATIO, node.POOLER_TYPE = 5, 2, "ROIAlign"
    pooler = pooler_from_cfg(node, [ShapeSpec(stride=4), ShapeSpec(stride=8)])
    assert pooler.output_size == (5, 5)
    kinds = [(p.spatial_scale, p.sampling_ratio, p.aligned) for p in pooler.level_poolers]
    assert kinds == [(0.25, 2, False), (0.125, 2, False)]
    node.POOLER_TYPE = ""
    assert pooler_from_cfg(node, [ShapeSpec(stride=4)]) is None


WRONG = {
    "NaN": ([4.0, 4.0, math.nan, 20.0], FloatingPointError, "not finite"),
    "infinite": ([4.0, -math.inf, 20.0, 20.0], FloatingPointError, "not finite"),
    "x": ([20.0, 4.0, 10.0, 20.0], ValueError, "turned inside out"),
    "y": ([4.0, 20.0, 10.0, 4.0], ValueError, "turned inside out"),
    "both": ([20.0, 20.0, 4.0, 4.0], ValueError, "turned inside out"),  # its area is positive
}


@pytest.mark.parametrize("pooler_type", ["ROIAlignV2", "ROIAlign", "ROIPool"])
@pytest.mark.parametrize(("box", "error", "what"), WRONG.values(), ids=WRONG)
def test_what_is_no_box_is_named(pooler_type, box, error, what):
    pooler = ROIPooler(7, (1 / 4, 1 / 8), 0, pooler_type)
    features = [torch.ones(2, 4, size, size) for size in (16, 8)]
    good = torch.tensor([[0.0, 0.0, 8.0, 8.0], [3.0, 3.0, 3.0, 3.0], [-5.0, 0.0, 90.0, 9.0]])
    assert pooler(features, [Boxes(good), Boxes(good[:0])]).shape == (3, 4, 7, 7)
    boxes = [Boxes(good), Boxes(torch.cat([good[:2], torch.tensor([box])]))]
    with pytest.raises(error, match=what) as caught:
        pooler(features, boxes)
    assert str(caught.value).startswith("Box 2 of image 1 of the batch is [")
    assert "what made this proposal" in str(caught.value)


@pytest.fixture
def by_kernels(monkeypatch):
    """Take the way of a GPU with what a CPU has in the place of its kernels."""

    def assign_levels(rois, *args):
        levels = poolers.assign_boxes_to_levels([Boxes(rois[:, 1:])], *args)
        size = rois[:, 3:] - rois[:, 1:3]
        bad = (~((size >= 0) & (size < math.inf))).any(dim=1).nonzero()[:1, 0]
        return levels.clamp(0, args[1] - args[0]), torch.tensor([*bad, len(rois)])[:1].int()

    monkeypatch.setattr(ours, "why_not_roi_align", lambda x: "")
    monkeypatch.setattr(ours, "assign_levels", assign_levels)


@pytest.mark.parametrize("counts", [(30, 20), (0, 40), (0, 0), (3, 0)], ids=str)
def test_the_way_of_a_gpu(request, counts):
    features, boxes = _features(), _boxes(*counts)
    pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2", canonical_box_size=64)
    wanted = pooler(features, boxes)
    request.getfixturevalue("by_kernels")
    out = pooler(features, boxes)
    assert torch.equal(out, wanted)
    grads = zip(*(torch.autograd.grad(x.sum(), features) for x in (out, wanted)))
    assert all(torch.equal(x, y) for x, y in grads)


class _Ops(TorchDispatchMode):
    """Counts the operators that launch something or wait."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        if not func.is_view and not name.startswith(("device", "empty", "new_empty", "detach")):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif("Triton" in WHY_NOT_ON_GPU, reason=WHY_NOT_ON_GPU)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_gpu_launches(monkeypatch, dtype):
    """Fake tensors of a GPU: Detectron2's pooler waits for it seven times, and copies levels."""
    launched = []

    def launch(kernel, grid, *_):
        launched.append((kernel, grid))

    monkeypatch.setattr(kernels, "_launch", launch)
    with FakeTensorMode(allow_non_fake_inputs=True):
        features = [
            torch.empty(2, 256, 800 // s, 1344 // s, device="cuda", dtype=dtype)
            .to(memory_format=torch.channels_last)
            .requires_grad_()
            for s in (4, 8, 16, 32)
        ]
        boxes = [Boxes(torch.empty(512, 4, device="cuda")) for _ in range(2)]
        pooler = ROIPooler(7, (*SCALES, 1 / 32), 0, "ROIAlignV2")
        with _Ops() as ops:
            out = pooler(features, boxes)
        assert out.shape == (1024, 256, 7, 7)
        assert out.is_contiguous(memory_format=torch.channels_last)
        args = [x.shape for x in features], torch.channels_last, Sampling(*SAMPLING)
        with _Ops() as backward_ops:
            grads = kernels.backward(out, torch.empty(1024, 5), torch.empty(1024), *args)
    # no nonzero, no copy to or from the host, no copy of a level
    assert ops.counts == {"cat": 1, "fill_": 2}
    assert not backward_ops.counts
    assert [x.shape for x in grads] == args[0]
    rows = sum(2 * (800 // s) * -(-1344 // s // 16) for s in (4, 8, 16, 32))
    assert launched == [
        ("levels_kernel", (1, 1, 1)),
        ("forward_kernel", (1024 * 7, 2, 1)),
        ("backward_kernel", (rows, 2, 1)),
    ]


@pytest.mark.parametrize(("box", "error", "what"), WRONG.values(), ids=WRONG)
def test_what_is_no_box_is_named_before_weights_change(by_kernels, box, error, what):
    pooler = ROIPooler(7, (1 / 4, 1 / 8), 0, "ROIAlignV2")
    features = [torch.ones(2, 4, size, size, requires_grad=True) for size in (16, 8)]
    good = torch.tensor([[0.0, 0.0, 8.0, 8.0], [3.0, 3.0, 3.0, 3.0], [-5.0, 0.0, 90.0, 9.0]])
    pooler(features, [Boxes(good), Boxes(good[:0])]).sum().backward()
    boxes = [Boxes(good), Boxes(torch.cat([good[:2], torch.tensor([box])]))]
    with torch.no_grad(), pytest.raises(error, match=what):
        pooler(features, boxes)  # there will be no gradient
    out = pooler(features, boxes)
    weight = torch.ones(4, 1, 1, requires_grad=True)
    with pytest.raises(error, match=what) as caught:
        (out * weight).sum().backward()
    assert str(caught.value).startswith("Box 2 of image 1 of the batch is [")
    assert features[1].grad.shape == features[1].shape


def test_wrong_proposals_of_a_generator_are_named(tiny_cfg, batch):
    torch.manual_seed(0)
    model = build_model(tiny_cfg()).eval()
    proposals = [Instances((64, 96)) for _ in batch]
    for instances in proposals:
        instances.proposal_boxes = Boxes(torch.tensor([[1.0, 1, 30, 30], [2, 2, 40, 40]]))
        instances.objectness_logits = torch.zeros(2)
    proposals[1].proposal_boxes.tensor[0, 2] = -7
    inputs = [{**x, "proposals": p} for x, p in zip(batch, proposals)]
    model.proposal_generator = None
    with pytest.raises(ValueError, match=r"Box 0 of image 1 .* is \[1.0, 1.0, -7.0, 30.0\]"):
        model(inputs)


@pytest.mark.parametrize("image", [2, -1, math.nan])
def test_rois_of_no_image(image):
    rois = torch.tensor([[image, 0.0, 0.0, 8.0, 8.0]])
    levels = torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match="RoIs are of image .*; there are 2"):
        pyramid_roi_align([torch.ones(2, 4, 8, 8)], rois, levels, [1 / 4], (7, 7))
