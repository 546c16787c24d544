import pytest
import torch
from torchvision.ops import roi_align

from gn_det.layers import pyramid_roi_align
from gn_det.layers.roi_align import CHANNELS_AT_ONCE

SCALES = (1 / 4, 1 / 8)
SIZES = ((24, 32), (12, 16))  # of an image of 96x128
ROIS = [
    # image, x0, y0, x1, y1
    (0, 10.3, 20.1, 50.7, 61.9),
    (1, 0, 0, 128, 96),  # the whole image
    (1, -20, -30, 40, 33),  # partly outside
    (0, 100, 70, 160, 140),
    (0, -80, -70, -10, -9),  # outside
    (1, 140, 110, 190, 190),
    (0, 31.4, 17.2, 31.9, 17.5),  # less than a pixel of a level
    (1, 30, 30, 30, 50),  # without width
    (0, 30, 30, 30, 30),  # a point
    (1, 50, 60, 40, 45),  # its corners in the wrong order
    (0, 2, 40, 126, 44),  # wide
    (1, 124, 92, 128, 96),  # the last pixel
    (0, 16, 16, 72, 72),  # whole numbers of samples
]


def _features(channels=3, dtype=torch.float64, memory_format=torch.contiguous_format, seed=0):
    rng = torch.Generator().manual_seed(seed)
    maps = [torch.randn(2, channels, *size, generator=rng, dtype=torch.float64) for size in SIZES]
    return [x.to(dtype=dtype, memory_format=memory_format).requires_grad_() for x in maps]


def _rois(dtype=torch.float32):
    rois = torch.tensor(ROIS, dtype=dtype).repeat_interleave(2, dim=0)
    return rois, torch.arange(len(rois)) % 2  # each from both levels


def _reference(features, rois, levels, output_size, sampling_ratio=0, aligned=True):
    """Return torchvision's result, in the type of the features, of all levels."""
    rois = rois.to(features[0].dtype)
    out = features[0].new_zeros(len(rois), features[0].shape[1], *output_size)
    for level, (x, scale) in enumerate(zip(features, SCALES)):
        of_level = (levels == level).nonzero()[:, 0]
        pooled = roi_align(x, rois[of_level], output_size, scale, sampling_ratio, aligned)
        out = out.index_put((of_level,), pooled)
    return out


def _grads(out, features):
    rng = torch.Generator().manual_seed(1)
    grad = torch.randn(out.shape, generator=rng, dtype=torch.float64).to(out.dtype)
    return torch.autograd.grad(out, features, grad, retain_graph=True)


def _error(a, b):
    """Return the largest difference, in parts of the largest entry."""
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, -1, 1, 2, 5])
@pytest.mark.parametrize("output_size", [(7, 7), (3, 5), (1, 1)])
def test_same_as_torchvision_in_float64(output_size, sampling_ratio, aligned):
    features, (rois, levels) = _features(), _rois(torch.float64)
    args = (output_size, sampling_ratio, aligned)
    ours = pyramid_roi_align(features, rois, levels, SCALES, *args)
    theirs = _reference(features, rois, levels, *args)
    assert ours.abs().max() > 1
    # torchvision gets its scale as float, which 1/4 and 1/8 are without rounding
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    for a, b in zip(_grads(ours, features), _grads(theirs, features)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_float32_is_nearer_to_float64_than_torchvision(sampling_ratio, aligned):
    exact, features = _features(), _features(dtype=torch.float32)
    exact = [x.detach().double().requires_grad_() for x in features]
    rois, levels = _rois()
    args = ((7, 7), sampling_ratio, aligned)
    out = _reference(exact, rois, levels, *args)
    ours = pyramid_roi_align(features, rois, levels, SCALES, *args)
    theirs = _reference(features, rois, levels, *args)
    assert _error(ours, out) < 3e-7
    assert _error(ours, out) < _error(theirs, out)
    rows = zip(_grads(ours, features), _grads(theirs, features), _grads(out, exact))
    for a, b, grad in rows:
        assert a.dtype == torch.float32
        assert _error(a, grad) < 1e-6
        assert _error(a, grad) < _error(b, grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_rounded_once(dtype):
    low = _features(dtype=dtype)
    exact = [x.detach().float().requires_grad_() for x in low]
    rois, levels = _rois()
    ours = pyramid_roi_align(low, rois, levels, SCALES, (7, 7))
    wanted = pyramid_roi_align(exact, rois, levels, SCALES, (7, 7))
    assert ours.dtype == dtype
    assert torch.equal(ours, wanted.to(dtype))
    grad = torch.randn(ours.shape).to(dtype)
    a, b = torch.autograd.grad(ours, low, grad), torch.autograd.grad(wanted, exact, grad.float())
    for x, y in zip(a, b):
        assert x.dtype == dtype
        assert torch.equal(x, y.to(dtype))


def test_under_autocast():
    features, (rois, levels) = _features(dtype=torch.bfloat16), _rois()
    plain = pyramid_roi_align(features, rois, levels, SCALES, (7, 7))
    with torch.autocast("cpu", torch.bfloat16):
        out = pyramid_roi_align(features, rois, levels, SCALES, (7, 7))
        grads = _grads(out, features)
    assert torch.equal(out, plain)
    assert all(torch.equal(a, b) for a, b in zip(grads, _grads(plain, features)))


def test_a_ramp_gives_the_centers_of_bins():
    """Bilinear samples of a linear function are exact, and its mean over a bin is its center."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    ramps = torch.stack([x, y])[None] + 0.5  # the center of pixel 0 is at 0.5
    rois = torch.tensor([[0, 20, 16, 76, 58.0]])
    out = pyramid_roi_align([ramps], rois, torch.tensor([0]), [0.25], (3, 7))
    assert out.shape == (1, 2, 3, 7)
    torch.testing.assert_close(out[0, 0], torch.arange(6.0, 20, 2).expand(3, 7))
    torch.testing.assert_close(out[0, 1], torch.tensor([5.75, 9.25, 12.75])[:, None].expand(3, 7))


def test_by_hand():
    """Two samples of one bin, each amid four pixels, and the same weights in backward."""
    x = torch.tensor([[1.0, 2, 4], [8, 16, 32]])[None, None].requires_grad_()
    rois = torch.tensor([[0, 0.5, 0.5, 2.5, 1.5]])  # aligned: from (0, 0) to (2, 1)
    out = pyramid_roi_align([x], rois, torch.tensor([0]), [1.0], (1, 1))
    # samples at x = 0.5 and 1.5, y = 0.5
    assert out.item() == ((1 + 2 + 8 + 16) / 4 + (2 + 4 + 16 + 32) / 4) / 2
    out.backward()
    assert torch.equal(x.grad[0, 0], torch.tensor([[1.0, 2, 1], [1, 2, 1]]) / 8)


def test_gradient():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 4, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 1.2, 0.3, 4.4, 3.9], [0, -2, -2, 3, 2]])
    levels = torch.zeros(2, dtype=torch.int64)
    assert torch.autograd.gradcheck(
        lambda x: pyramid_roi_align([x], rois, levels, [1.0], (2, 2)), (x,)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_keeps_the_memory_format(memory_format, dtype):
    features = _features(dtype=dtype, memory_format=memory_format)
    rois, levels = _rois()
    out = pyramid_roi_align(features, rois, levels, SCALES, (7, 7))
    for x in (out, *_grads(out, features)):
        assert x.is_contiguous(memory_format=memory_format)
        assert not x.is_contiguous() or memory_format == torch.contiguous_format
    plain = _features(dtype=dtype)
    assert torch.equal(out, pyramid_roi_align(plain, rois, levels, SCALES, (7, 7)))
    # a gradient in the other format is as good
    other = [torch.channels_last, torch.contiguous_format][memory_format == torch.channels_last]
    grad = torch.randn(out.shape).to(dtype)
    a = torch.autograd.grad(out, features, grad, retain_graph=True)
    b = torch.autograd.grad(out, features, grad.contiguous(memory_format=other))
    assert all(torch.equal(x, y) for x, y in zip(a, b))


def test_views_as_features():
    whole = torch.randn(2, 6, 24, 40, dtype=torch.float64)
    part = whole[:, 1:4, :, 5:37]
    rois, levels = _rois()
    features = [part, _features()[1]]
    copies = [x.contiguous() for x in features]
    a, b = (pyramid_roi_align(x, rois, levels, SCALES, (7, 7)) for x in (features, copies))
    assert torch.equal(a, b)


def test_more_channels_than_go_at_once():
    features = _features(channels=CHANNELS_AT_ONCE + 3)
    rois, levels = _rois(torch.float64)
    ours = pyramid_roi_align(features, rois, levels, SCALES, (2, 2))
    theirs = _reference(features, rois, levels, (2, 2))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    for a, b in zip(_grads(ours, features), _grads(theirs, features)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("images", [0, 2])
def test_no_rois(images):
    features = [torch.randn(images, 3, *size, requires_grad=True) for size in SIZES]
    none = torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)
    out = pyramid_roi_align(features, *none, SCALES, (7, 7))
    assert out.shape == (0, 3, 7, 7)
    out.sum().backward()
    for x in features:
        assert torch.equal(x.grad, torch.zeros_like(x))


def test_same_bits_on_any_number_of_threads():
    rng = torch.Generator().manual_seed(0)
    corner = torch.rand(200, 2, generator=rng) * 90
    boxes = torch.cat([corner, corner + torch.rand(200, 2, generator=rng) * 40], dim=1)
    rois = torch.cat([torch.arange(200)[:, None] % 2, boxes], dim=1)
    levels = torch.arange(200) // 100
    features = _features(channels=16, dtype=torch.float32)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 3):
            torch.set_num_threads(threads)
            out = pyramid_roi_align(features, rois, levels, SCALES, (7, 7))
            results.append((out, *_grads(out, features)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_saves_only_rois_and_levels_for_backward():
    saved = []

    def pack(x):
        saved.append(x)
        return x

    features, (rois, levels) = _features(), _rois()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        pyramid_roi_align(features, rois, levels, SCALES, (7, 7))
    assert [x.data_ptr() for x in saved] == [rois.data_ptr(), levels.data_ptr()]


def test_some_levels_without_gradient():
    features, (rois, levels) = _features(), _rois()
    every = _grads(pyramid_roi_align(features, rois, levels, SCALES, (7, 7)), features)
    frozen = [features[0].detach(), features[1]]
    out = pyramid_roi_align(frozen, rois, levels, SCALES, (7, 7))
    assert torch.equal(_grads(out, frozen[1:])[0], every[1])
    without = pyramid_roi_align([x.detach() for x in features], rois, levels, SCALES, (7, 7))
    assert not without.requires_grad


def test_one_derivative_only():
    features, (rois, levels) = _features(), _rois()
    out = pyramid_roi_align(features, rois, levels, SCALES, (7, 7))
    (grad,) = torch.autograd.grad(out.square().sum(), features[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


BAD = {
    "no features": ({"features": [], "scales": []}, "0 feature maps and 0 scales"),
    "scales": ({"scales": [1.0]}, "2 feature maps and 1 scales"),
    "channels": (
        {"features": [torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 2, 2)]},
        r"the same dtype, N and C; got \(2, 3, 4, 4\) torch.float32, \(2, 4, 2, 2\)",
    ),
    "types": (
        {"features": [torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2).bfloat16()]},
        "torch.bfloat16",
    ),
    "dimensions": ({"features": [torch.zeros(3, 4, 4), torch.zeros(3, 2, 2)]}, r"\(N, C, H, W\)"),
    "device": (
        {"levels": torch.zeros(1, dtype=torch.int64, device="meta")},
        "several devices: cpu, meta",
    ),
    "rois": ({"rois": torch.zeros(1, 4)}, r"rois of shape \(R, 5\) .* got \(1, 4\) and \(1,\)"),
    "levels": ({"levels": torch.zeros(2, dtype=torch.int64)}, r"got \(1, 5\) and \(2,\)"),
    "image": ({"rois": torch.tensor([[2.0, 0, 0, 1, 1]])}, "of image 2 to 2; there are 2"),
    "level": ({"levels": torch.tensor([-1])}, "of level -1 to -1; there are 2"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(change, message):
    good = {
        "features": [torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2)],
        "rois": torch.zeros(1, 5),
        "levels": torch.zeros(1, dtype=torch.int64),
        "scales": SCALES,
    }
    assert pyramid_roi_align(**good, output_size=(7, 7)).shape == (1, 3, 7, 7)
    with pytest.raises(ValueError, match=message):
        pyramid_roi_align(**{**good, **change}, output_size=(7, 7))
