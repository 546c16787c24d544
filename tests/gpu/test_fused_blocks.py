"""Norm, sum and ReLU as one kernel on a GPU. The twin on a CPU is tests/modeling/test_fused.py."""

import copy

import pytest
import torch
from torch import nn

from gn_det.layers import kernels
from gn_det.modeling import FPN, build_gn_resnet_backbone, get_norm
from gn_det.modeling.activation_checkpointing import set_memory
from gn_det.modeling.blocks import BottleneckBlock

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

MODES = ("standard", "lean", "minimal")


@pytest.fixture(autouse=True)
def same_bits(monkeypatch):
    """Let cuDNN choose algorithms that give the same bits each time, without TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def make_block():
    return BottleneckBlock(64, 256, bottleneck_channels=64, norm=get_norm("GN"))


def make_pyramid():
    features = ["res2", "res3", "res4", "res5"]
    return FPN(
        bottom_up=build_gn_resnet_backbone(depth=18, norm=get_norm("GN"), out_features=features),
        in_features=features,
        out_channels=64,
        norm=get_norm("GN"),
    )


def step(part, x, dtype):
    """Return outputs, gradients, and the bytes that forward keeps for backward."""
    part.zero_grad()
    before = torch.cuda.memory_allocated()
    with torch.autocast("cuda", dtype, enabled=dtype != x.dtype):
        outputs = part(x)
    outputs = list(outputs.values()) if isinstance(outputs, dict) else [outputs]
    kept = torch.cuda.memory_allocated() - before
    sum(y.double().square().mean() for y in outputs).backward()
    return [y.detach() for y in outputs], [p.grad for p in part.parameters()], kept


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("make", "shape"), [(make_block, (2, 64, 64, 96)), (make_pyramid, (2, 3, 128, 192))]
)
def test_modes_are_equal_and_right(make, shape, dtype, layout):
    torch.manual_seed(0)
    part = make().cuda().to(memory_format=layout).train()
    for norm in part.modules():
        if isinstance(norm, nn.GroupNorm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = torch.randn(shape, device="cuda").contiguous(memory_format=layout)
    assert kernels.why_not(x) == ""
    exact = step(copy.deepcopy(part).double(), x.double(), torch.float64)
    results = {}
    for mode in MODES:
        for module in part.modules():
            if hasattr(module, "memory"):
                set_memory(module, mode)
        results[mode] = step(part, x, dtype)
        step(part, x, dtype)
    tolerance = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}[dtype]
    for mode in MODES:
        assert all(map(torch.equal, results[mode][0], results["standard"][0]))
        for mine, standard, true in zip(results[mode][1], results["standard"][1], exact[1]):
            assert torch.equal(mine, standard), mode
            assert (mine.double() - true).norm() <= tolerance * true.norm().clamp(min=1e-6)
    assert results["minimal"][2] < results["lean"][2] < results["standard"][2]
