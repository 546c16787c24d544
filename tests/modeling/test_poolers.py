import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model, poolers
from detectron2.structures import Boxes, Instances

from gn_det import get_cfg
from gn_det.layers import pyramid_roi_align
from gn_det.modeling.poolers import ROIAlign, ROIPooler, pooler_from_cfg

SCALES = (1 / 4, 1 / 8, 1 / 16)


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
