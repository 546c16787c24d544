"""The GroupNorm kernels beside float64: on a GPU, or in the interpreter (test_interpreter.py)."""

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import aot_function, nop
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from gn_det.layers.group_norm import group_norm as layers_group_norm
from gn_det.layers.kernels import group_norm, group_norm_plan, usable
from gn_det.layers.kernels.group_norm_plan import plan_for
from gn_det.layers.kernels.support import INTERPRETED

ON_GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = torch.device("cuda", 0) if ON_GPU else torch.device("cpu")

pytestmark = pytest.mark.skipif(
    not (ON_GPU or INTERPRETED), reason="runs in Triton's interpreter, by test_interpreter.py"
)

# The interpreter truncates to bfloat16 where a GPU rounds.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2**-6}

# (N, C, *), groups
SHAPES = [
    ((2, 9, 5, 7), 3),  # three channels a group, three groups
    ((3, 8, 1, 1), 2),  # one pixel
    ((2, 5, 4, 6), 5),  # one channel a group
    ((1, 40, 3, 7), 1),  # one group of more channels than a small tile has
]
FORMS = [
    (torch.float32, True, True),
    (torch.float32, True, False),
    (torch.bfloat16, True, False),
    (torch.float16, False, True),
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=["groups in one tile", "groups in parts"])
def tiles(request, monkeypatch):
    """Make tiles so small that a small tensor takes many of them, in several parts."""
    if request.param == "groups in parts":
        sizes = {"TILE": 256, "RUN": 16, "CHANNELS": 16, "WHOLE": 4, "WARP": 128, "PARTS": 2}
        for name, value in sizes.items():
            monkeypatch.setattr(group_norm_plan, name, value)
    plan_for.cache_clear()
    yield
    plan_for.cache_clear()


def make(shape, dtype=torch.float32, channels_last=False, mean=0.0, std=1.0):
    x = (torch.randn(shape) * std + mean).to(DEVICE, dtype)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def affine(channels, dtype=torch.float32):
    return [torch.randn(channels, device=DEVICE, dtype=dtype) for _ in range(2)]


def run(x, groups, weight, bias, residual, dy, relu, function=group_norm):
    """Return y and the gradients of x, weight, bias and residual."""
    inputs = [t if t is None else t.detach().requires_grad_() for t in (x, weight, bias, residual)]
    leaves = [t for t in inputs if t is not None]
    x, weight, bias, residual = inputs
    y = function(x, groups, weight, bias, 1e-5, relu=relu, residual=residual)[0]
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def by_pytorch(x, groups, weight, bias, eps, relu, residual):
    y = F.group_norm(x, groups, weight, bias, eps)
    y = y if residual is None else y + residual
    return (y.relu() if relu else y,)


def in_float64(x, groups, weight, bias, residual, dy, relu):
    wide = [t if t is None else t.double() for t in (x, weight, bias, residual, dy)]
    x, weight, bias, residual, dy = wide
    return run(x, groups, weight, bias, residual, dy, relu, by_pytorch)


def check(found, expected, tolerance):
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        scale = b.abs().max().clamp(min=1.0)
        error = ((a.double() - b) / scale).abs().max()
        assert error < tolerance, (i, float(error))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("dtype", "relu", "add"), FORMS)
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_beside_float64(tiles, shape, groups, dtype, relu, add, channels_last):
    x = make(shape, dtype, channels_last, mean=1.0)
    residual = make(shape, dtype, channels_last) if add else None
    dy = make(shape, dtype, channels_last)
    weight, bias = affine(shape[1])
    assert usable(x)
    found = run(x, groups, weight, bias, residual, dy, relu)
    assert [t.dtype for t in found] == [dtype, dtype, torch.float32, torch.float32] + [dtype] * add
    assert found[0].stride() == found[1].stride() == x.stride()
    check(found, in_float64(x, groups, weight, bias, residual, dy, relu), TOLERANCE[dtype])


@pytest.mark.parametrize("channels_last", [False, True])
def test_small_tiles_take_the_paths_of_large_images(tiles, channels_last, request):
    plans = [
        plan_for(n, c, h * w, groups, channels_last, DEVICE) for (n, c, h, w), groups in SHAPES
    ]
    if all(plan.whole for plan in plans):
        assert "one tile" in request.node.name
        return
    assert max(plan.chunks for plan in plans) > 1  # chunks of an image
    assert any(plan.parts > plan.chunks for plan in plans)  # blocks of a group's channels
    assert max(plan.parts for plan in plans) > group_norm_plan.PARTS


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_large_group(channels_last):
    """Tiles of the size that a GPU has."""
    shape = (1, 12, 40, 36)
    assert not plan_for(1, 12, 40 * 36, 1, channels_last, DEVICE).whole
    x, residual, dy = (make(shape, torch.float32, channels_last) for _ in range(3))
    weight, bias = affine(12)
    found = run(x, 1, weight, bias, residual, dy, True)
    check(found, in_float64(x, 1, weight, bias, residual, dy, True), 2e-6)


@pytest.mark.parametrize(
    ("dtype", "mean", "tolerance"),
    [(torch.float32, 1e4, 2e-3), (torch.float16, 100.0, 2e-3), (torch.bfloat16, 100.0, 2**-6)],
)
def test_large_means(tiles, dtype, mean, tolerance):
    """A mean in float32 has an error of 2^-24 of it: 6e-4 of a standard deviation at 1e4."""
    shape, groups = (2, 6, 5, 7), 2
    x, dy = make(shape, dtype, mean=mean), make(shape, dtype)
    weight, bias = affine(shape[1])
    found = run(x, groups, weight, bias, None, dy, False)
    check(found, in_float64(x, groups, weight, bias, None, dy, False), tolerance)


def test_a_mean_whose_square_overflows(tiles):
    x = make((2, 6, 5, 7), mean=1e20, std=1e17)
    weight, bias = affine(6)
    y, mean, _ = group_norm(x, 2, weight, bias, 1e-5)
    torch.testing.assert_close(mean, x.view(2, 2, -1).mean(2), rtol=1e-6, atol=0)
    wide = F.group_norm(x.double(), 2, weight.double(), bias.double())
    torch.testing.assert_close(y.double(), wide, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_backward_knows_which_y_were_above_zero(tiles, mean, dtype):
    """With dy of ones the residual's gradient is the mask, and dbias counts it."""
    shape, groups = (2, 6, 5, 7), 2
    x = make(shape, dtype, mean=mean, std=0.01 if dtype == torch.float32 else 1.0)
    residual = make(shape, dtype)
    weight, bias = affine(shape[1])
    if dtype == torch.float16:  # about half of the results round to 0
        weight, residual = weight * 3e-8, residual * 0
    dy = torch.ones_like(x)
    y, *_, dresidual = run(x, groups, weight, 0 * bias, residual, dy, True)
    assert torch.equal(dresidual, (y > 0).to(dtype))
    y, _, _, dbias = run(x, groups, weight, 0 * bias, None, dy, True)
    assert torch.equal(dbias, (y > 0).sum((0, 2, 3)).float())


@pytest.mark.parametrize("shape", [(3, 10), (2, 6, 5), (2, 4, 3, 5, 7), (2, 6, 0)])
def test_other_ranks(shape):
    x, dy = make(shape), make(shape)
    weight, bias = affine(shape[1])
    if not x.numel():
        assert not usable(x)
        return
    found = run(x, 2, weight, bias, None, dy, True)
    # of two channels and one position normalized values are 1 and -1: dx vanishes but for rounding
    check(found, in_float64(x, 2, weight, bias, None, dy, True), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_types(dtype):
    x, dy = make((2, 6, 9, 11)), make((2, 6, 9, 11))
    weight, bias = affine(6, dtype)
    found = run(x, 2, weight, bias, None, dy, True)
    assert found[2].dtype == found[3].dtype == dtype
    expected = in_float64(x, 2, weight, bias, None, dy, True)
    check(found[:2], expected[:2], 2e-6)
    check(found, expected, 1e-2)


def test_statistics_of_a_former_call(tiles):
    shape, groups = (2, 6, 5, 7), 2
    x = make(shape, channels_last=True)
    weight, bias = affine(shape[1])
    y, mean, rstd = group_norm(x, groups, weight, bias, 1e-5, relu=True)
    wide = x.double().contiguous().view(shape[0], groups, -1)
    torch.testing.assert_close(mean.double(), wide.mean(2), rtol=1e-6, atol=1e-6)
    expected = (wide.var(2, correction=0) + 1e-5).rsqrt()
    torch.testing.assert_close(rstd.double(), expected, rtol=1e-6, atol=1e-6)
    leaf = x.clone().requires_grad_()
    again, *same = group_norm(leaf, groups, weight, bias, 1e-5, relu=True, statistics=(mean, rstd))
    assert same[0] is mean
    assert same[1] is rstd
    assert torch.equal(again, y)
    dy = make(shape)
    expected = in_float64(x, groups, weight, bias, None, dy, True)
    check([y, *torch.autograd.grad(again, leaf, dy)], expected[:2], 2e-6)
    # given ones are believed
    shifted = group_norm(x, groups, weight, bias, 1e-5, statistics=(mean + 1, rstd))[0]
    assert (shifted - y).abs().max() > 0.1


def test_nan_stays_in_its_group(tiles):
    shape, groups = (2, 6, 5, 7), 2
    x, dy, residual = make(shape), make(shape), make(shape)
    weight, bias = affine(shape[1])
    for add in (None, residual):
        before = run(x, groups, weight, bias, add, dy, True)
        x_nan = x.clone()
        x_nan[0, 0, 2, 3] = float("nan")
        after = run(x_nan, groups, weight, bias, add, dy, True)
        half = shape[1] // 2
        assert after[0][0, :half].isnan().all()
        assert after[1][0, :half].isnan().all()
        assert after[2][:half].isnan().all()
        # the ReLU's gradient is dy where y is NaN
        expected = in_float64(x_nan, groups, weight, bias, add, dy, True)
        check(after[3:], expected[3:], 2e-6)
        for a, b in zip(after, before):
            others = (..., slice(half, None)) if a.dim() == 1 else (slice(None), slice(half, None))
            assert torch.equal(a[others], b[others])


def test_same_bits_twice(tiles):
    x, dy = make((2, 6, 5, 7), torch.bfloat16, True), make((2, 6, 5, 7), torch.bfloat16)
    weight, bias = affine(6)
    first, second = (run(x, 2, weight, bias, x, dy, True) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_only_what_is_needed(tiles):
    shape, groups = (2, 6, 5, 7), 2
    inputs = [make(shape), *affine(shape[1]), make(shape)]
    dy = make(shape)
    expected = run(inputs[0], groups, *inputs[1:], dy, True)[1:]
    for i, gradient in enumerate(expected):
        leaves = [t.clone() for t in inputs]
        leaves[i].requires_grad_()
        x, weight, bias, residual = leaves
        y = group_norm(x, groups, weight, bias, 1e-5, relu=True, residual=residual)[0]
        y.backward(dy)
        assert torch.equal(leaves[i].grad, gradient)
        assert all(t.grad is None for t in leaves if t is not leaves[i])


def test_gradients_and_residuals_of_another_layout():
    x = make((2, 6, 9, 11), channels_last=True)
    weight, bias = affine(6)
    residual = make((2, 6, 11, 9)).transpose(2, 3)
    dy = torch.ones(2, 6, 1, 1, device=DEVICE).expand(2, 6, 9, 11)
    found = run(x, 2, weight, bias, residual, dy, True)
    check(found, in_float64(x, 2, weight, bias, residual, dy, True), 2e-6)
    strided = torch.stack([weight, bias], 1)
    y = group_norm(x, 2, strided[:, 0], strided[:, 1], 1e-5, relu=True, residual=residual)[0]
    assert torch.equal(y, found[0])


def test_slices_of_a_batch():
    """Their data begin where loads of 128 bits may not."""
    x = make((2, 5, 3, 3), torch.float16)
    weight, bias = affine(5)
    whole, part = (group_norm(t, 5, weight, bias, 1e-5)[0] for t in (x, x[1:]))
    assert torch.equal(whole[1:], part)


def test_in_checkpointing_under_autocast():
    x = make((2, 6, 9, 11)).requires_grad_()
    weight, bias = (t.requires_grad_() for t in affine(6))

    def block(x):
        y = group_norm(x.bfloat16(), 2, weight, bias, 1e-5, relu=True)[0]
        assert y.dtype == torch.bfloat16
        return y

    with torch.autocast(DEVICE.type, torch.bfloat16):
        kept = block(x)
        recomputed = checkpoint(block, x, use_reentrant=False)
    gradients = [
        torch.autograd.grad(y.float().square().sum(), [x, weight, bias]) for y in (kept, recomputed)
    ]
    assert all(map(torch.equal, *gradients))


def test_statistics_have_no_gradient():
    x = make((2, 6, 4, 4)).requires_grad_()
    _, mean, rstd = group_norm(x, 2, *affine(6), 1e-5)
    assert not mean.requires_grad
    assert not rstd.requires_grad


def test_gradients_of_gradients():
    """A gradient penalty; the residual is what x is computed from, as in a block."""

    def penalty(normalize, *inputs):
        x, weight, bias = leaves = [t.clone().requires_grad_() for t in inputs]
        y = normalize((x * x).sin(), weight, bias, x)
        gradients = torch.autograd.grad(y.pow(3).sum(), leaves, create_graph=True)
        sum(g.square().sum() for g in gradients).backward()
        return [t.grad for t in leaves]

    def by_kernels(x, weight, bias, residual):
        return group_norm(x, 2, weight, bias, 1e-5, relu=True, residual=residual)[0]

    def by_pytorch(x, weight, bias, residual):
        return (F.group_norm(x, 2, weight, bias) + residual).relu()

    inputs = make((2, 6, 4, 4)), *affine(6)
    found = penalty(by_kernels, *inputs)
    check(found, penalty(by_pytorch, *(t.double() for t in inputs)), 2e-5)


def test_what_does_not_fit():
    x, (weight, bias) = make((2, 6, 4, 4)), affine(6)
    good = {"x": x, "num_groups": 2, "weight": weight, "bias": bias, "eps": 1e-5}
    for bad, message in [
        ({"x": bias}, r"input of shape \(N, C, \*\), not \(6,\)"),
        ({"num_groups": 4}, "4 groups do not divide 6 channels"),
        ({"weight": weight[:3]}, r"need the shape \(6,\).*not \(3,\) and \(6,\)"),
        ({"bias": bias.to("meta")}, "weight and bias are on .* and meta, the input on "),
        ({"residual": x[:1]}, r"residual, \(1, 6, 4, 4\).*needs shape, dtype and device"),
        ({"residual": x.to("meta")}, "on meta, needs shape, dtype and device"),
        ({"residual": x.half()}, "residual.*float16"),
        ({"statistics": (bias, bias)}, r"statistics need the shape \(2, 2\) in float32"),
    ]:
        with pytest.raises(ValueError, match=message):
            group_norm(**{**good, **bad})


def test_what_is_left_to_pytorch():
    """Derivatives and traces that the kernels would break."""
    x = make((2, 6, 4, 4))
    weight, bias = affine(6)

    def norm(x):
        return layers_group_norm(x, 2, weight, bias)

    assert usable(x)
    expected = F.group_norm(x, 2, weight, bias)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x)
        # y does not change with the scale of x
        assert forward_ad.unpack_dual(norm(dual)).tangent.abs().max() < 1e-4
    torch.testing.assert_close(torch.vmap(norm)(x[:, None])[:, 0], expected)
    graph = make_fx(norm)(torch.ones_like(x))
    torch.testing.assert_close(graph(x), expected)
    compiled = aot_function(lambda x, *affine: layers_group_norm(x, 2, *affine), nop)
    torch.testing.assert_close(compiled(x.clone().requires_grad_(), weight, bias), expected)
    assert usable(x)  # nothing failed


FORMS_OF_CALL = [{}, {"relu": True}, {"relu": True, "residual": True}, {"residual": True}]


@pytest.mark.parametrize("form", [*FORMS_OF_CALL, {"relu": True, "statistics": True}])
def test_compiled_it_is_one_operator(form):
    x, residual, dy = (make((2, 8, 5, 7)) for _ in range(3))
    weight, bias = affine(8)
    statistics = group_norm(x, 4, weight, bias, 1e-5)[1:]

    def call(x, weight, bias, residual):
        extra = {
            **form,
            "residual": residual if "residual" in form else None,
            "statistics": statistics if "statistics" in form else None,
        }
        return group_norm(x, 4, weight, bias, 1e-5, **extra)

    results = []
    for function in (call, torch.compile(call, backend="aot_eager", fullgraph=True)):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias, residual)]
        y, mean, rstd = function(*leaves)
        assert not mean.requires_grad
        wanted = leaves if "residual" in form else leaves[:3]
        results.append([y.detach(), mean, rstd, *torch.autograd.grad(y, wanted, dy)])
    assert all(map(torch.equal, *results))


def test_exported_with_any_size():
    weight, bias = affine(8)

    class Norm(torch.nn.Module):
        def forward(self, x):
            return group_norm(x, 4, weight, bias, 1e-5, relu=True)[0]

    n, height = torch.export.Dim("n"), torch.export.Dim("height")
    shapes = {"x": {0: n, 2: height}}
    program = torch.export.export(Norm(), (make((2, 8, 5, 7)),), dynamic_shapes=shapes)
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count(torch.ops.gn_det.group_norm.default) == 1
    x = make((3, 8, 6, 7))
    assert torch.equal(program.module()(x), Norm()(x))
