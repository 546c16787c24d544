import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from gn_det.layers import fp32_stats
from gn_det.layers.fp32_stats import group_norm_fp32_stats

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# of the largest entry: a unit in the last place; for float32 the arithmetic before it counts too
ROUNDING = {torch.float32: 5e-7, torch.bfloat16: 2**-7, torch.float16: 2**-10}


@pytest.fixture(params=["cpu", "gpu"])
def kernels(request, monkeypatch):
    """Go either way; that of a GPU on a CPU too, where it is right and slow."""
    if request.param == "gpu":
        monkeypatch.setattr(fp32_stats, "_on_cpu", lambda x: False)


def _inputs(*shape, dtype=torch.float32, mean=0.0, layout="contiguous", seed=0):
    rng = torch.Generator().manual_seed(seed)
    x, dy = (torch.randn(*shape, generator=rng) for _ in range(2))
    x = (x + mean).to(dtype).to(memory_format=LAYOUTS[layout]).requires_grad_()
    weight, bias = (torch.randn(shape[1], generator=rng).requires_grad_() for _ in range(2))
    return x, dy.to(dtype).to(memory_format=LAYOUTS[layout]), weight, bias


def _float64(x, dy, weight, bias, groups):
    """Return y, dx, dweight and dbias of PyTorch's own operator in float64."""
    exact = [t.detach().double().contiguous().requires_grad_() for t in (x, weight, bias)]
    y = F.group_norm(exact[0], groups, *exact[1:])
    y.backward(dy.double())
    return (y.detach(), *(t.grad for t in exact))


def _relative(actual, expected):
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("shape", "groups"), [((3, 8, 5, 7), 4), ((2, 6, 9, 4), 1)])
def test_is_rounded_once(shape, groups, dtype, layout):
    x, dy, weight, bias = _inputs(*shape, dtype=dtype, mean=3.0, layout=layout)
    y = group_norm_fp32_stats(x, groups, weight, bias)
    y.backward(dy)
    assert y.dtype == x.grad.dtype == dtype
    assert weight.grad.dtype == bias.grad.dtype == torch.float32
    assert y.is_contiguous(memory_format=LAYOUTS[layout])
    assert x.grad.is_contiguous(memory_format=LAYOUTS[layout])
    expected = _float64(x, dy, weight, bias, groups)
    assert _relative(y, expected[0]) < ROUNDING[dtype]
    assert _relative(x.grad, expected[1]) < ROUNDING[dtype]
    assert _relative(weight.grad, expected[2]) < 2e-6  # float32, whatever the input's type
    assert _relative(bias.grad, expected[3]) < 2e-6


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("shape", [(5, 6), (4, 6, 9), (2, 6, 3, 4, 5), (2, 6, 1, 1)])
def test_any_number_of_dimensions(shape):
    x, dy, weight, bias = _inputs(*shape)
    y = group_norm_fp32_stats(x, 3, weight, bias, eps=0.1)
    y.backward(dy)
    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    expected = F.group_norm(exact[0], 3, *exact[1:], eps=0.1)
    expected.backward(dy.double())
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip((x, weight, bias), exact):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_float64(layout):
    x, _, weight, bias = (t.detach().double() for t in _inputs(2, 6, 3, 4, layout=layout))
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda x, w, b: group_norm_fp32_stats(x, 2, w, b), inputs)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_large_means(layout):
    x, dy, weight, bias = _inputs(2, 8, 32, 32, mean=1e4, layout=layout)
    y = group_norm_fp32_stats(x, 4, weight, bias)
    y.backward(dy)
    expected = _float64(x, dy, weight, bias, 4)
    # 1e4 +- 1 has 13 bits before the point: 10 are left of float32's 24 behind the sign
    for actual, reference in zip((y, x.grad, weight.grad, bias.grad), expected):
        assert _relative(actual, reference) < 1e-3


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_saves_the_input_in_its_own_dtype(layout):
    x, _, weight, bias = _inputs(2, 8, 16, 16, dtype=torch.bfloat16, layout=layout)
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        group_norm_fp32_stats(x, 4, weight, bias)
    by_storage = {t.untyped_storage().data_ptr(): t for t in saved}
    assert by_storage.pop(x.untyped_storage().data_ptr()).dtype == torch.bfloat16
    assert by_storage.pop(weight.untyped_storage().data_ptr()) is not None
    assert sum(t.numel() for t in by_storage.values()) == 2 * (2 * 4)  # mean and 1 / std


@pytest.mark.usefixtures("kernels")
def test_gradient_of_another_layout_or_without_memory():
    x, dy, weight, bias = _inputs(2, 8, 4, 6, layout="channels_last")
    group_norm_fp32_stats(x, 4, weight, bias).backward(dy)
    expected, x.grad = x.grad, None
    group_norm_fp32_stats(x, 4, weight, bias).backward(dy.contiguous())
    torch.testing.assert_close(x.grad, expected)
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
    bias.grad = None
    group_norm_fp32_stats(x, 4, weight, bias).sum().backward()  # one number, expanded
    torch.testing.assert_close(bias.grad, torch.full((8,), 2 * 4 * 6.0))


@pytest.mark.usefixtures("kernels")
def test_input_with_gaps():
    x, _, weight, bias = _inputs(2, 8, 6, 6)
    part = x.detach()[:, :, 1:5, 2:4]
    expected = F.group_norm(part, 4, weight, bias)
    torch.testing.assert_close(group_norm_fp32_stats(part, 4, weight, bias), expected)
    turned = x.detach().transpose(2, 3)
    expected = F.group_norm(turned, 4, weight, bias)
    torch.testing.assert_close(group_norm_fp32_stats(turned, 4, weight, bias), expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(0, 8), (0, 8, 7, 7)])
def test_no_images(shape):
    x, dy, weight, bias = _inputs(*shape, dtype=torch.bfloat16)
    y = group_norm_fp32_stats(x, 4, weight, bias)
    y.backward(dy)
    assert y.shape == x.grad.shape == shape
    assert y.dtype == torch.bfloat16
    assert torch.equal(weight.grad, torch.zeros(8))
    assert torch.equal(bias.grad, torch.zeros(8))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_relu_may_overwrite_the_output(layout):
    x, dy, weight, bias = _inputs(2, 8, 4, 6, layout=layout)
    F.relu(group_norm_fp32_stats(x, 4, weight, bias)).backward(dy)
    expected, x.grad = x.grad, None
    F.relu_(group_norm_fp32_stats(x, 4, weight, bias)).backward(dy)
    assert torch.equal(x.grad, expected)


def test_only_what_is_asked_for():
    x, dy, weight, bias = _inputs(2, 8, 4, 4)
    group_norm_fp32_stats(x.detach(), 4, weight, bias).backward(dy)
    assert x.grad is None
    assert weight.grad is not None
    other = [t.detach() for t in (weight, bias)]
    group_norm_fp32_stats(x, 4, *other).backward(dy)
    assert x.grad is not None


def test_is_differentiable_once():
    x, _, weight, bias = _inputs(2, 8, 4, 4)
    loss = group_norm_fp32_stats(x, 4, weight, bias).square().sum()
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_under_checkpoint_and_autocast():
    x, dy, weight, bias = _inputs(2, 8, 4, 4, dtype=torch.bfloat16)
    conv = torch.nn.Conv2d(8, 8, 3)

    def layers(x):
        return conv(F.relu(group_norm_fp32_stats(x, 4, weight, bias)))

    gradients = []
    for run in (layers, lambda x: checkpoint(layers, x, use_reentrant=False)):
        for tensor in (x, weight, bias):
            tensor.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = run(x)
        y.backward(dy[:, :, :2, :2])
        gradients.append(copy.deepcopy([x.grad, weight.grad, bias.grad]))
    for plain, remade in zip(*gradients):
        assert torch.equal(plain, remade)
