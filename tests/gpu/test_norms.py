"""Twin: tests/benchmarks/test_gpu_correctness.py, and tests/layers/kernels in the interpreter."""

import os
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu.correctness import LAYOUTS, compare
from gn_det.layers import GroupNorm, kernels

LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
SHAPES = [(2, 64, 40, 66), (5, 256, 7, 7), (2, 2048, 3, 5), (1, 96, 1, 1)]


@pytest.mark.parametrize("way", ["kernels", "layer", "fp32 statistics"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_beside_float64(way, dtype, layout, shape):
    if way == "kernels" and (
        why := kernels.why_not(torch.empty(shape, dtype=dtype, device="cuda"))
    ):
        pytest.skip(why)
    for mean in (0.0, 30.0):
        found = compare(way, shape, dtype, layout, mean)
        assert found.pop("kept")
        assert max(found.values()) < LIMITS[dtype] * (10 if mean else 1)


@pytest.mark.parametrize("residual", [False, True])
def test_relu_and_residual_in_the_kernel(residual):
    if why := kernels.why_not(torch.empty(2, 64, 8, 8, device="cuda")):
        pytest.skip(why)
    found = compare("kernels", (2, 64, 40, 66), torch.float32, "NHWC", 0, True, residual)
    assert found.pop("kept")
    assert found.pop("y") < 1e-5
    assert max(found.values()) < 0.02  # a gradient counts or not where ReLU's input is nearly 0


def test_same_bits_twice():
    norm = GroupNorm(256).cuda()
    x = torch.randn(2, 256, 100, 168, device="cuda", requires_grad=True)

    def gradients():
        return torch.autograd.grad(norm(x).square().sum(), [x, norm.weight, norm.bias])

    if kernels.usable(x):
        assert all(map(torch.equal, gradients(), gradients()))


def test_empty_and_odd_inputs_take_another_path():
    norm = GroupNorm(64).cuda()
    empty = torch.empty(0, 64, 7, 7, device="cuda", requires_grad=True)
    norm(empty).sum().backward()
    assert norm.weight.grad.eq(0).all()
    x = torch.randn(2, 64, 9, 8, device="cuda")
    expected = norm(x)
    torch.testing.assert_close(norm(x.transpose(2, 3)), expected.transpose(2, 3))
    torch.testing.assert_close(norm.double()(x.double()).float(), expected)


CODE = """
import torch
from gn_det.layers import GroupNorm, kernels
x = torch.randn(2, 64, 9, 8, device="cuda")
assert kernels.why_not(x) == "GN_DET_KERNELS is 0"
y = GroupNorm(64).cuda()(x)
torch.testing.assert_close(y, torch.nn.functional.group_norm(x, 32))
"""


def test_the_switch():
    env = {**os.environ, "GN_DET_KERNELS": "0"}
    subprocess.run([sys.executable, "-c", CODE], env=env, check=True, timeout=120)
