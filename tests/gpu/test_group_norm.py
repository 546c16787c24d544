"""What of the GroupNorm kernels only a GPU can show.

Twins: tests/layers/kernels/test_group_norm.py, whose tests run on a GPU too, and
test_group_norm_offsets.py and test_group_norm_compiles.py beside it.
"""

import pytest
import torch
import torch.nn.functional as F

from gn_det.layers.kernels import group_norm, why_not

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)
if reason := why_not(torch.empty(1, 1, device="cuda")):
    pytest.skip(reason, allow_module_level=True)

# of Mask R-CNN R50-FPN: stem, p2, res4, res5, p6, box head, mask head
SHAPES = [
    (2, 64, 400, 672),
    (1, 256, 200, 336),
    (2, 1024, 50, 84),
    (2, 2048, 25, 42),
    (2, 256, 13, 21),
    (1000, 256, 7, 7),
    (256, 256, 14, 14),
]
# y and gradients, rounded once; sums of up to a million elements
LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def make(shape, dtype=torch.float32, layout=torch.contiguous_format, device="cuda"):
    x = torch.randn(shape, device=device) + 1.0
    return x.to(dtype).contiguous(memory_format=layout)


def run(x, weight, bias, residual, dy, function):
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias, residual)]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def fused(x, weight, bias, residual):
    return group_norm(x, 32, weight, bias, 1e-5, relu=True, residual=residual)[0]


def plain(x, weight, bias, residual):
    return (F.group_norm(x, 32, weight, bias, 1e-5) + residual).relu()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_a_network(shape, dtype, layout):
    torch.manual_seed(0)
    x, residual, dy = (make(shape, dtype, layout) for _ in range(3))
    inputs = (x, *(torch.randn(shape[1], device="cuda") for _ in range(2)), residual)
    found, again = (run(*inputs, dy, fused) for _ in range(2))
    assert all(map(torch.equal, found, again))
    y, *_, dresidual = found
    assert torch.equal(dresidual, torch.where(y > 0, dy, torch.zeros_like(dy)))
    expected = run(*(t.double() for t in inputs), dy.double(), plain)
    for a, b in zip(found, expected, strict=True):
        # where y is nearly 0 it may have the other sign in float64
        assert (a.double() - b).norm() / b.norm() < LIMITS[dtype]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_than_2_to_the_31_elements(layout):
    shape = (33, 64, 1024, 1024)
    if torch.cuda.mem_get_info()[0] < 20 * 2**30:
        pytest.skip("the GPU has too little memory free")
    x = torch.empty(shape, dtype=torch.bfloat16, device="cuda", memory_format=layout)
    x.copy_(torch.randn(shape[1:], dtype=torch.bfloat16, device="cuda"))
    weight, bias = (torch.randn(64, device="cuda", requires_grad=True) for _ in range(2))
    y = group_norm(x.requires_grad_(), 32, weight, bias, 1e-5, relu=True)[0]
    assert all(torch.equal(y[0], image) for image in y.detach())
    (dx,) = torch.autograd.grad(y, x, y.detach())
    assert all(torch.equal(dx[0], image) for image in dx)


def test_compiled_by_inductor():
    shape, dtype = (2, 64, 40, 66), torch.bfloat16
    inputs = (make(shape, dtype), *(torch.randn(64, device="cuda") for _ in range(2)))
    residual, dy = make(shape, dtype), make(shape, dtype)
    compiled = torch.compile(fused, fullgraph=True)
    found = run(*inputs, residual, dy, compiled)
    assert all(map(torch.equal, found, run(*inputs, residual, dy, fused)))


def test_on_another_stream():
    x, residual, dy = (make((2, 256, 100, 168)) for _ in range(3))
    inputs = (x, *(torch.randn(256, device="cuda") for _ in range(2)), residual)
    expected = run(*inputs, dy, fused)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = run(*inputs, dy, fused)
    stream.synchronize()
    assert all(map(torch.equal, found, expected))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_on_a_gpu_that_is_not_the_current_one():
    x, residual, dy = (make((2, 256, 50, 84)) for _ in range(3))
    inputs = (x, *(torch.randn(256, device="cuda") for _ in range(2)), residual)
    expected = run(*inputs, dy, fused)
    found = run(*(t.to("cuda:1") for t in inputs), dy.to("cuda:1"), fused)
    assert all(torch.equal(a.to("cuda:0"), b) for a, b in zip(found, expected, strict=True))


def test_nothing_waits_for_the_gpu():
    x, residual, dy = (make((2, 256, 50, 84)) for _ in range(3))
    inputs = (x, *(torch.randn(256, device="cuda") for _ in range(2)), residual)
    run(*inputs, dy, fused)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(*inputs, dy, fused)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_in_a_cuda_graph():
    x, residual, dy = (make((2, 256, 50, 84)) for _ in range(3))
    inputs = (x, *(torch.randn(256, device="cuda") for _ in range(2)), residual)
    expected = run(*inputs, dy, fused)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run(*inputs, dy, fused)
    graph.replay()
    torch.cuda.synchronize()
    assert all(map(torch.equal, found, expected))
