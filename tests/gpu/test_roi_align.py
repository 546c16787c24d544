"""RoIAlign at the sizes of a training step. Twin: tests/layers/kernels/test_roi_align.py."""

import math

import pytest
import torch
from detectron2.modeling import poolers
from detectron2.structures import Boxes

from benchmarks.roi_align import random_boxes
from gn_det.layers.kernels.roi_align import why_not_roi_align
from gn_det.modeling import ROIPooler

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

STRIDES = (4, 8, 16, 32)
SCALES = [1 / stride for stride in STRIDES]
LAYOUTS = [torch.channels_last, torch.contiguous_format]


def make(dtype, layout, rois):
    """Return p2 to p5 of two images of 800x1333, and boxes."""
    rng = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 256, 800 // s, 1344 // s, generator=rng) for s in STRIDES]
    features = [x.to("cuda", dtype, memory_format=layout).requires_grad_() for x in maps]
    assert why_not_roi_align(features) == ""
    return features, [Boxes(b.cuda()) for b in random_boxes(2, 800, 1333, rois, rng)]


def pool(bins, features, boxes, cls=ROIPooler):
    """Return the pooled features, and the gradient of their sum with fixed factors."""
    out = cls(bins, SCALES, 0, "ROIAlignV2")(features, boxes)
    rng = torch.Generator(device="cuda").manual_seed(1)
    factors = torch.randn(out.shape, generator=rng, device="cuda").to(features[0].dtype)
    return [out.detach(), *torch.autograd.grad(out, features, factors.to(out.dtype))]


@pytest.fixture(autouse=True)
def restored():
    yield
    torch.use_deterministic_algorithms(False)
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("bins", "rois"), [(7, 1024), (14, 256)])
def test_same_as_detectron2s_in_float64_and_the_same_bits_twice(bins, rois, dtype, layout):
    features, boxes = make(dtype, layout, rois)
    first, second = (pool(bins, features, boxes) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert all(x.is_contiguous(memory_format=layout) for x in first)
    doubles = [x.detach().double().requires_grad_() for x in features]
    wanted = pool(bins, doubles, boxes, poolers.ROIPooler)
    tolerance = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 1e-6}[dtype]
    for ours, theirs in zip(first, wanted):
        assert (ours - theirs).abs().max() < tolerance * theirs.abs().max()


@pytest.mark.parametrize("deterministic", [False, True])
def test_memory_is_that_of_results(deterministic):
    features, boxes = make(torch.bfloat16, torch.channels_last, 1024)
    pool(7, features, boxes)
    torch.use_deterministic_algorithms(deterministic)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2")
    out = pooler(features, boxes)
    torch.autograd.grad(out, features, torch.ones_like(out))
    used = torch.cuda.max_memory_allocated() - before
    results = sum(x.numel() * 2 for x in features) + 2 * out.numel() * 2
    assert results <= used < results + 2**21


@pytest.mark.parametrize("training", [True, False])
def test_synchronizations(training):
    features, boxes = make(torch.bfloat16, torch.channels_last, 1024)
    pool(7, features, boxes)
    pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2")
    torch.cuda.set_sync_debug_mode("error")
    if training:
        out = pooler(features, boxes)
        torch.autograd.grad(out, features, torch.ones_like(out))
    else:  # the check of the boxes cannot wait for a gradient
        with torch.no_grad(), pytest.raises(RuntimeError, match="synchronizing"):
            pooler(features, boxes)


@pytest.mark.parametrize(
    ("value", "error"), [(math.nan, FloatingPointError), (-7.0, ValueError)], ids=str
)
def test_what_is_no_box_is_named_before_weights_change(value, error):
    features, boxes = make(torch.bfloat16, torch.channels_last, 64)
    boxes[1].tensor[3, 2] = value
    pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2")
    with pytest.raises(error, match="Box 3 of image 1 of the batch"):
        pooler(features, boxes).sum().backward()
    with torch.no_grad(), pytest.raises(error, match="Box 3 of image 1 of the batch"):
        pooler(features, boxes)
