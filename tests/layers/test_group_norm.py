import copy
import pickle
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from gn_det.layers import GroupNorm, kernels, num_groups_for
from gn_det.layers.group_norm import group_norm
from gn_det.layers.kept_statistics import keeping_statistics, reusing
from gn_det.layers.kernels import group_norm_launch
from gn_det.layers.kernels.launch import KernelError


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    # far from mean 0 and variance 1, different in each channel
    rng = torch.Generator().manual_seed(seed)
    channel = torch.arange(shape[1], dtype=torch.float32).view(1, -1, *[1] * (len(shape) - 2))
    return torch.randn(*shape, generator=rng) * (1 + channel / 4) + 3 * channel - 5


def _with_affine(norm: GroupNorm, seed: int = 1) -> GroupNorm:
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(norm.num_channels, generator=rng))
        norm.bias.copy_(torch.randn(norm.num_channels, generator=rng))
    return norm


def _closed_form(x, dy, weight, bias, groups, eps):
    """Return y, dx, dweight, dbias of equation 7 in float64."""
    x, dy, weight, bias = (t.detach().double() for t in (x, dy, weight, bias))
    n, c = x.shape[:2]
    per_channel = (1, c, *[1] * (x.dim() - 2))
    grouped = x.reshape(n, groups, -1)
    mean = grouped.mean(dim=2, keepdim=True)
    variance = ((grouped - mean) ** 2).mean(dim=2, keepdim=True)
    sigma = (variance + eps).sqrt()
    xhat = (grouped - mean) / sigma
    y = xhat.reshape(x.shape) * weight.view(per_channel) + bias.view(per_channel)
    g = (dy * weight.view(per_channel)).reshape(n, groups, -1)
    dx = g - g.mean(dim=2, keepdim=True) - xhat * (g * xhat).mean(dim=2, keepdim=True)
    all_but_channels = [0, *range(2, x.dim())]
    dweight = (dy * xhat.reshape(x.shape)).sum(all_but_channels)
    return y, (dx / sigma).reshape(x.shape), dweight, dy.sum(all_but_channels)


@pytest.mark.parametrize(
    ("shape", "kwargs", "groups"),
    [
        ((2, 12, 5, 7), {"num_groups": 4}, 4),
        ((3, 64, 4, 4), {}, 32),
        ((2, 12, 5, 7), {"channels_per_group": 4}, 3),
        ((2, 12, 5, 7), {"num_groups": 5, "channels_per_group": 6}, 2),
        ((2, 8, 3, 5, 4), {"num_groups": 2}, 2),
        ((4, 8, 9), {"num_groups": 2}, 2),
        ((6, 8), {"num_groups": 2}, 2),
        ((2, 12, 5, 7), {"num_groups": 3, "eps": 0.5}, 3),
    ],
)
def test_forward_and_gradients_are_the_closed_form(shape, kwargs, groups):
    norm = _with_affine(GroupNorm(shape[1], **kwargs))
    x = _random(*shape).requires_grad_()
    dy = _random(*shape, seed=2)
    y = norm(x)
    y.backward(dy)
    expected = _closed_form(x, dy, norm.weight, norm.bias, groups, kwargs.get("eps", 1e-5))
    actual = (y, x.grad, norm.weight.grad, norm.bias.grad)
    for name, a, e in zip(("y", "dx", "dweight", "dbias"), actual, expected):
        scale = e.abs().max()
        assert (a.double() - e).abs().max() < 2e-5 * scale, name


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("groups", [4, 1, 12])
def test_clips_in_both_layouts(layout, groups):
    """(N, C, T, H, W): GN, LN and IN are the closed form, and what nn.GroupNorm gives."""
    norm = _with_affine(GroupNorm(12, num_groups=groups))
    x = _random(2, 12, 3, 4, 5).contiguous(memory_format=layout).requires_grad_()
    dy = _random(2, 12, 3, 4, 5, seed=2)
    y = norm(x)
    y.backward(dy)
    expected = _closed_form(x, dy, norm.weight, norm.bias, groups, 1e-5)
    actual = (y, x.grad, norm.weight.grad, norm.bias.grad)
    for name, a, e in zip(("y", "dx", "dweight", "dbias"), actual, expected):
        assert (a.double() - e).abs().max() < 1e-4 * e.abs().max(), name
    stock = nn.GroupNorm(groups, 12)
    stock.load_state_dict(norm.state_dict())
    torch.testing.assert_close(y, stock(x.contiguous()), rtol=1e-4, atol=1e-4)


def test_hand_worked_example():
    # groups (1, 3) and (2, 2): means 2 and 2, variances 1 and 0; with eps 3 the first is divided
    # by sqrt(1 + 3) = 2, so normalized (-0.5, 0.5) and (0, 0)
    norm = GroupNorm(4, num_groups=2, eps=3.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, 2.0, 3.0, 3.0]))
        norm.bias.copy_(torch.tensor([1.0, 1.0, -1.0, -1.0]))
    x = torch.tensor([1.0, 3.0, 2.0, 2.0]).view(1, 4, 1, 1)
    expected = torch.tensor([0.0, 2.0, -1.0, -1.0])
    torch.testing.assert_close(norm(x).flatten(), expected, rtol=0, atol=1e-6)


def test_one_group_is_layer_norm():
    norm, x = _with_affine(GroupNorm(6, num_groups=1)), _random(3, 6, 4, 5)
    layer = nn.LayerNorm((6, 4, 5), elementwise_affine=False)
    expected = layer(x) * norm.weight.view(1, 6, 1, 1) + norm.bias.view(1, 6, 1, 1)
    torch.testing.assert_close(norm(x), expected)


def test_one_channel_a_group_is_instance_norm():
    norm, x = _with_affine(GroupNorm(6, channels_per_group=1)), _random(3, 6, 4, 5)
    instance = nn.InstanceNorm2d(6, affine=True)
    instance.load_state_dict(norm.state_dict())
    torch.testing.assert_close(norm(x), instance(x))


def test_each_image_is_normalized_by_itself():
    norm, x = GroupNorm(8, num_groups=2), _random(3, 8, 4, 4)
    torch.testing.assert_close(norm(x)[1:2], norm(x[1:2]), rtol=0, atol=1e-6)
    assert norm.training
    torch.testing.assert_close(norm(x), norm.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(0, 64, 7, 7), (0, 64, 4, 7, 7), (0, 64)])
def test_no_images(shape):
    norm = GroupNorm(64)
    x = torch.zeros(shape, requires_grad=True)
    y = norm(x)
    assert y.shape == shape
    y.sum().backward()
    assert x.grad.shape == shape
    assert torch.equal(norm.weight.grad, torch.zeros(64))
    assert torch.equal(norm.bias.grad, torch.zeros(64))


def test_is_a_group_norm_that_takes_channels_first():
    norm = partial(GroupNorm, num_groups=4)(16)
    assert isinstance(norm, nn.GroupNorm)
    assert (norm.num_channels, norm.num_groups, norm.eps) == (16, 4, 1e-5)
    assert GroupNorm(64).num_groups == 32
    assert torch.equal(norm.weight, torch.ones(16))
    assert torch.equal(norm.bias, torch.zeros(16))


@pytest.mark.parametrize(
    ("channels", "groups", "nearest"),
    [(48, 32, "24 and 48"), (100, 32, "25 and 50"), (7, 3, "1 and 7"), (16, 32, "16.")],
)
def test_count_that_does_not_divide(channels, groups, nearest):
    with pytest.raises(ValueError, match="nearest") as error:
        GroupNorm(channels, num_groups=groups)
    assert f"{channels} channels" in str(error.value)
    assert f"{groups} equal groups" in str(error.value)
    assert f"divide it: {nearest}" in str(error.value)


@pytest.mark.parametrize(
    ("channels", "per_group", "nearest"),
    [(48, 40, "24 and 48"), (100, 16, "10 and 20"), (8, 16, "4 and 8"), (8, -1, "1 and 2")],
)
def test_channels_per_group_that_do_not_divide(channels, per_group, nearest):
    with pytest.raises(ValueError, match="nearest") as error:
        GroupNorm(channels, channels_per_group=per_group)
    assert f"{channels} channels" in str(error.value)
    assert f"groups of {per_group}" in str(error.value)
    assert f"divide it: {nearest}" in str(error.value)


@pytest.mark.parametrize(("channels", "groups"), [(0, 1), (8, 0), (8, -2)])
def test_nothing_to_divide(channels, groups):
    with pytest.raises(ValueError, match=f"got {channels} channels in {groups} groups"):
        GroupNorm(channels, num_groups=groups)


def test_num_groups_for():
    assert num_groups_for(64, 32, None) == 32
    assert num_groups_for(64, 32, 16) == 4
    assert num_groups_for(64, 5, 64) == 1


def test_copies_keep_all():
    norm = _with_affine(GroupNorm(12, channels_per_group=3, eps=1e-3))
    x = _random(2, 12, 3, 3)
    for other in (copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):
        assert type(other) is GroupNorm
        assert (other.num_groups, other.eps) == (4, 1e-3)
        assert torch.equal(other(x), norm(x))


def test_state_goes_to_and_from_a_plain_group_norm():
    ours, plain = _with_affine(GroupNorm(12, num_groups=3)), nn.GroupNorm(3, 12)
    x = _random(2, 12, 3, 3)
    assert list(ours.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(ours.state_dict(), strict=True)
    assert torch.equal(plain(x), ours(x))
    back = GroupNorm(12, num_groups=3)
    back.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(back(x), ours(x))


def test_repr_can_be_typed_in():
    text = repr(GroupNorm(12, channels_per_group=3, eps=1e-3))
    again = eval(text, {"GroupNorm": GroupNorm})
    assert (again.num_channels, again.num_groups, again.eps) == (12, 4, 1e-3)
    assert repr(again) == text


# --- Types, layouts, large means -------------------------------------------------------------

CHANNELS_LAST = torch.channels_last
LOW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
LAYOUTS = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, CHANNELS_LAST], ids=["contiguous", "channels_last"]
)


def _backward(function, norm, x, dy):
    """Return y, dx, dweight, dbias of ``function(norm, x)``."""
    x = x.detach().requires_grad_()
    norm.zero_grad()
    y = function(norm, x)
    y.backward(dy)
    return y.detach(), x.grad, norm.weight.grad.clone(), norm.bias.grad.clone()


@LAYOUTS
def test_float32_is_exactly_nn_group_norm(layout):
    norm = _with_affine(GroupNorm(16, num_groups=4))
    x, dy = (torch.randn(2, 16, 9, 11).to(memory_format=layout) for _ in range(2))
    ours = _backward(lambda norm, x: norm(x), norm, x, dy)
    theirs = _backward(nn.GroupNorm.forward, norm, x, dy)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
    assert ours[0].is_contiguous(memory_format=layout)
    assert ours[1].is_contiguous(memory_format=layout)


@LAYOUTS
def test_large_means_do_not_cancel(layout):
    # PyTorch's own kernel for channels_last is off by more than the output is large
    norm = _with_affine(GroupNorm(16, num_groups=4))
    x = (torch.randn(2, 16, 32, 32) + 1e4).to(memory_format=layout)
    dy = torch.randn(2, 16, 32, 32).to(memory_format=layout)
    actual = _backward(lambda norm, x: norm(x), norm, x, dy)
    expected = _closed_form(x, dy, norm.weight, norm.bias, 4, 1e-5)
    assert actual[0].is_contiguous(memory_format=layout)
    for a, e, limit in zip(actual, expected, (1e-3, 1e-3, 2e-2, 1e-5)):
        assert (a.double() - e).abs().max() < limit * e.abs().max()


@pytest.mark.parametrize("mean", [1.0, 3.0, 5.0, 50.0])
def test_channels_last_is_right_near_the_switch(mean):
    norm = _with_affine(GroupNorm(16, num_groups=4))
    x = (torch.randn(2, 16, 64, 64) + mean).to(memory_format=CHANNELS_LAST)
    expected = _closed_form(x, x, norm.weight, norm.bias, 4, 1e-5)[0]
    assert (norm(x).double() - expected).abs().max() < 2e-4 * expected.abs().max()


@LOW
@LAYOUTS
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_low_precision_in_and_out_float32_inside(dtype, layout, mean):
    norm = _with_affine(GroupNorm(16, num_groups=4))
    x = (torch.randn(2, 16, 33, 31) + mean).to(dtype).to(memory_format=layout)
    dy = torch.randn(2, 16, 33, 31).to(dtype).to(memory_format=layout)

    def under_autocast(norm, x):
        with torch.autocast("cpu", dtype=dtype):
            return norm(x)

    actual = _backward(under_autocast, norm, x, dy)
    assert [t.dtype for t in actual] == [dtype, dtype, torch.float32, torch.float32]
    assert all(t.is_contiguous(memory_format=layout) for t in actual[:2])
    expected = _closed_form(x, dy, norm.weight, norm.bias, 4, 1e-5)
    one_rounding = torch.finfo(dtype).eps
    for a, e, limit in zip(actual, expected, (one_rounding, one_rounding, 2e-4, 1e-5)):
        assert (a.double() - e).abs().max() < limit * e.abs().max()


@LOW
@LAYOUTS
def test_saves_only_the_low_precision_input(dtype, layout):
    norm = GroupNorm(16, num_groups=4)
    x = torch.randn(2, 16, 12, 12).to(dtype).to(memory_format=layout).requires_grad_()
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        torch.autocast("cpu", dtype=dtype),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        y = norm(x)
    own = {p.untyped_storage().data_ptr() for p in norm.parameters()}
    nbytes = sum(n for pointer, n in saved.items() if pointer not in own)
    assert y.dtype == dtype
    assert nbytes == x.numel() * 2 + 2 * (2 * 4) * 4  # x; mean and 1 / std in float32


@LAYOUTS
def test_twice_under_checkpoint(layout):
    norm = _with_affine(GroupNorm(16, num_groups=4))
    conv = nn.Conv2d(16, 16, 1).to(memory_format=layout)
    dy = torch.randn(2, 16, 8, 8).bfloat16().to(memory_format=layout)

    def twice(norm, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return conv(F.relu(norm(conv(norm(x)))))

    def kept_input_alone(norm, x):
        return checkpoint(twice, norm, x, use_reentrant=False)

    for mean in (0.0, 20.0):  # on both sides of the switch
        x = (torch.randn(2, 16, 8, 8) + mean).bfloat16().to(memory_format=layout)
        plain, remade = (_backward(f, norm, x, dy) for f in (twice, kept_input_alone))
        assert all(torch.equal(a, b) for a, b in zip(plain, remade))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@LAYOUTS
def test_exports(dtype, layout):
    norm = _with_affine(GroupNorm(16, num_groups=4)).eval()
    shape = (2, 16, 8, 8)
    x, other = (torch.randn(shape).to(dtype).to(memory_format=layout) for _ in range(2))
    for exported in (torch.jit.trace(norm, x), torch.jit.script(norm)):
        torch.testing.assert_close(exported(other), norm(other))
        assert exported(other).dtype == dtype
    far = (other.float() + 1e4).to(memory_format=layout)
    torch.testing.assert_close(torch.jit.script(norm)(far), norm(far), rtol=0, atol=1e-2)


def test_compiles_to_one_graph():
    norm, graphs = _with_affine(GroupNorm(16, num_groups=4)), []

    def keep(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    x = torch.randn(2, 16, 8, 8).to(memory_format=CHANNELS_LAST)
    y = torch.compile(norm, backend=keep, fullgraph=True)(x)
    torch.testing.assert_close(y, norm(x))
    assert len(graphs) == 1


@LAYOUTS
def test_far_mean_of_one_group_is_enough(layout):
    norm = GroupNorm(16, num_groups=4)
    x = torch.randn(2, 16, 32, 32)
    x[1, 4:8] += 1e4
    x = x.to(memory_format=layout)
    expected = _closed_form(x, x, norm.weight, norm.bias, 4, 1e-5)[0]
    assert (norm(x).double() - expected).abs().max() < 1e-2


def test_nan_stays_nan():
    x = torch.randn(2, 16, 4, 4).to(memory_format=CHANNELS_LAST)
    x[0, 0, 0, 0] = float("nan")
    y = GroupNorm(16, num_groups=4)(x)
    assert y[0, :4].isnan().all()
    assert y[0, 4:].isfinite().all()
    assert y[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", ["meta", "cpu"])
@LAYOUTS
def test_type_and_layout_without_values(dtype, device, layout):
    # "meta" goes the way of a GPU, where PyTorch's operator takes one type and one layout
    with FakeTensorMode() if device == "cpu" else nullcontext(), torch.device(device):
        norm = GroupNorm(16, num_groups=4)
        x = torch.empty(2, 16, 8, 8, dtype=dtype).to(memory_format=layout)
        x.requires_grad_()
        y = norm(x)
        y.backward(torch.empty_like(y))
    for tensor in (y, x.grad):
        assert tensor.dtype == dtype
        assert tensor.is_contiguous(memory_format=layout)
    assert norm.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("add", [False, True])
def test_residual_and_relu(dtype, layout, relu, add):
    """They are what two more operations give, to the bit."""
    norm = _with_affine(GroupNorm(8, num_groups=2).to(torch.promote_types(dtype, torch.float32)))
    results = []
    for fused in (True, False):
        x, residual = (
            _random(2, 8, 5, 3, seed=seed).to(dtype).contiguous(memory_format=layout)
            for seed in (0, 1)
        )
        leaves = [x.requires_grad_(), residual.requires_grad_(), norm.weight, norm.bias]
        if fused:
            y = group_norm(
                *(x, 2, norm.weight, norm.bias, norm.eps),
                relu=relu,
                residual=residual if add else None,
            )
        else:
            y = norm(x) + residual if add else norm(x)
            y = F.relu(y) if relu else y
        dy = _random(2, 8, 5, 3, seed=2).to(dtype)
        results.append([y, *torch.autograd.grad(y, leaves, dy, allow_unused=True)])
        assert y.dtype == dtype
        assert y.stride() == x.stride()
    for ours, theirs in zip(*results):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (1, 8, 200, 100)], ids=["one tile", "parts"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_kernel_that_fails(monkeypatch, shape, channels_last):
    """PyTorch's operators run in its place, forward, backward and with kept statistics."""

    def fail(*_args, **_kwargs):
        raise KernelError

    layout = torch.channels_last if channels_last else torch.contiguous_format
    norm = _with_affine(GroupNorm(8, num_groups=2))
    x = _random(*shape).contiguous(memory_format=layout).requires_grad_()
    added, dy = _random(*shape, seed=1).requires_grad_(), _random(*shape, seed=2)
    leaves = [x, added, norm.weight, norm.bias]
    expected = F.relu(norm(x) + added)
    expected = [expected, *torch.autograd.grad(expected, leaves, dy)]
    monkeypatch.setattr(kernels, "unsupported", lambda x: "")
    monkeypatch.setattr(group_norm_launch, "launch", fail)
    args, kept = (x, 2, norm.weight, norm.bias, norm.eps), []
    with keeping_statistics(kept):
        y = group_norm(*args, relu=True, residual=added)
    with reusing(kept):
        again = group_norm(*args, relu=True, residual=added)
    assert torch.equal(again, y)
    assert y.stride() == x.stride()
    for ours, theirs in zip([y, *torch.autograd.grad(y, leaves, dy)], expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())
