import pytest
import torch

from gn_det.layers import standardize_weight


def _weight(*shape: int, dtype=torch.float32) -> torch.Tensor:
    # far from mean 0 and std 1, different in each filter
    rng = torch.Generator().manual_seed(0)
    channel = torch.arange(shape[0], dtype=torch.float32).view(-1, 1, 1, 1)
    return (torch.randn(*shape, generator=rng) * (0.02 + channel / 50) + channel / 10 - 0.3).to(
        dtype
    )


def _closed_form(weight, dy, eps):
    """Return the standardized weight and dweight in float64, filter by filter."""
    w, dy = weight.detach().double().flatten(1), dy.double().flatten(1)
    n = w.shape[1]
    centered = w - w.sum(1, keepdim=True) / n
    std = ((centered**2).sum(1, keepdim=True) / (n - 1)).sqrt()
    y = centered / (std + eps)
    # dy/dw = (I - 1/n) / (std + eps) - centered (centered / (n - 1) / std) / (std + eps)^2
    along = (dy * centered).sum(1, keepdim=True) / (n - 1) / std / (std + eps)
    dw = (dy - dy.mean(1, keepdim=True) - along * centered) / (std + eps)
    return y.view(weight.shape), dw.view(weight.shape)


@pytest.mark.parametrize("eps", [1e-5, 0.5])
@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (6, 16, 1, 1), (4, 1, 3, 3), (64, 3, 7, 7)])
def test_values_and_gradient_are_the_closed_form(shape, eps):
    weight = _weight(*shape).requires_grad_()
    dy = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    y = standardize_weight(weight, eps)
    y.backward(dy)
    expected, gradient = _closed_form(weight, dy, eps)
    assert (y.double() - expected).abs().max() < 2e-5 * expected.abs().max()
    assert (weight.grad.double() - gradient).abs().max() < 2e-5 * gradient.abs().max()
    if eps == 1e-5:
        assert torch.equal(standardize_weight(weight), y)  # the default


def test_hand_worked_example():
    # filter (1, 3): mean 2, unbiased std sqrt((1 + 1) / 1) = sqrt(2); eps goes to the std
    # filter (-4, 4): mean 0, std sqrt((16 + 16) / 1) = sqrt(32)
    weight = torch.tensor([1.0, 3.0, -4.0, 4.0], dtype=torch.float64).view(2, 2, 1, 1)
    y = standardize_weight(weight, eps=1.0).flatten()
    a, b = 1 / (2**0.5 + 1), 4 / (32**0.5 + 1)
    torch.testing.assert_close(y, torch.tensor([-a, a, -b, b], dtype=torch.float64))


def test_gradcheck():
    weight = _weight(3, 2, 3, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(standardize_weight, weight)


def test_scale_and_offset_of_a_filter_do_not_matter():
    weight = _weight(5, 4, 3, 3, dtype=torch.float64)
    scale, offset = (torch.rand(5, 1, 1, 1, dtype=torch.float64) + 1 for _ in range(2))
    a, b = standardize_weight(weight, eps=0.0), standardize_weight(weight * scale + offset, eps=0.0)
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_rounded_once(dtype):
    weight = _weight(8, 64, 3, 3, dtype=dtype)
    y = standardize_weight(weight)
    assert y.dtype == dtype
    assert torch.equal(y, standardize_weight(weight.float()).to(dtype))


def test_autocast_lowers_nothing():
    weight = _weight(8, 64, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = standardize_weight(weight)
    assert y.dtype == torch.float32
    assert torch.equal(y, standardize_weight(weight))


def test_large_mean_costs_no_precision():
    # E[x^2] - E[x]^2 would be off by about 2e-7 * 100^2 / 0.01^2 = 20 times the variance here
    weight = 100 + 0.01 * torch.randn(4, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    expected, _ = _closed_form(weight, weight, 1e-5)
    assert (standardize_weight(weight).double() - expected).abs().max() < 0.01


def test_constant_filter_is_zero_and_its_gradient_finite():
    weight = torch.full((2, 4, 3, 3), 0.25, requires_grad=True)
    y = standardize_weight(weight)
    assert torch.equal(y, torch.zeros_like(y))
    (y * torch.randn(y.shape)).sum().backward()
    assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize("shape", [(8, 1, 1, 1), (8, 4), (8, 0, 3, 3), (8, 4, 3)])
def test_shapes_that_have_no_std(shape):
    with pytest.raises(ValueError, match="two or more numbers in a filter") as error:
        standardize_weight(torch.zeros(shape))
    assert str(shape) in str(error.value)
