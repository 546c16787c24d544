"""Backward on fake tensors of a GPU, beside the autograd engine on real tensors of a CPU."""

import contextlib

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gn_det.engine.fake_gpu import SUPPORTED, cuda_autocast_available, fake_backward
from gn_det.engine.memory_meter import MemoryMeter

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="this PyTorch hides the inputs of nodes")


@pytest.mark.parametrize("memory", ["standard", "lean", "minimal"])
def test_gradients_and_memory_are_the_engines(tiny_cfg, memory):
    cfg = tiny_cfg("MODEL.GN.MEMORY", memory, "MODEL.CHANNELS_LAST", True)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    batch = torch.rand(2, 3, 64, 96)
    gradients, peaks = [], []
    for backward in (torch.Tensor.backward, fake_backward):
        model.zero_grad()
        with MemoryMeter() as meter:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                features = model.backbone(batch)
                outputs = sum(model.proposal_generator.rpn_head([*features.values()]), [])
            loss = sum(x.float().square().mean() for x in outputs)
            del features, outputs
            backward(loss)
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        peaks.append(meter.peak_bytes)
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) > 80
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name
    # the engine adds up gradients in place
    assert peaks[0] <= peaks[1] <= 1.02 * peaks[0]


class Halves(torch.autograd.Function):
    """Takes more than tensors, and returns more than one."""

    @staticmethod
    def forward(ctx, x, size, y):
        ctx.size = size
        return x[:size] * 2, y * 3

    @staticmethod
    def backward(ctx, dx, dy):
        return torch.cat([dx * 2, dx.new_zeros(len(dx))]), None, dy * 3


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b: (a * a + a.detach() * b).sum(),  # used twice
        lambda a, b: (a.view(2, 2) + b[0] + b.sum()).exp().sum(),  # broadcast
        lambda a, b: (a.double() * b).sum(),  # two dtypes
        lambda a, b: Halves.apply(a, 2, b)[0].sum(),  # an output that nobody uses
        lambda a, b: sum(x.sum() for x in Halves.apply(a, 2, b * a)),
        lambda a, b: a.sort().values.unbind()[0] + b.max(0).values,
    ],
)
def test_small_graphs(make):
    expected, found = ([torch.rand(4, requires_grad=True) for _ in range(2)] for _ in range(2))
    with torch.no_grad():
        for x, y in zip(expected, found):
            y.copy_(x)
    make(*expected).backward()
    loss = make(*found)
    for repeats in (1, 2):  # the second time gradients are added up
        fake_backward(loss)
        assert loss.grad_fn is None
        for x, y in zip(expected, found):
            if x.grad is None:
                assert y.grad is None
            else:
                assert torch.allclose(y.grad, repeats * x.grad)
        loss = make(*found)


def test_mixed_precision_of_a_gpu_by_hand():
    """A convolution, GN and ReLU in CUDA's autocast, with recomputation in backward."""
    n, c = 2 * 16 * 16, 8  # pixels and channels
    with FakeTensorMode(), torch.device("cuda"), cuda_autocast_available():
        model = nn.Sequential(nn.Conv2d(c, c, 1, bias=False), nn.GroupNorm(2, c), nn.ReLU())
        x = torch.empty(2, c, 16, 16)
        with MemoryMeter() as meter, torch.autocast("cuda", dtype=torch.float16):
            y = model(x)
        assert y.dtype == torch.float32
        # x and weight in float16, GN's input in float32 with mean and rstd, y
        assert meter.alive_bytes() == 2 * n * c + 2 * c * c + 4 * n * c + 2 * 4 * 4 + 4 * n * c
        del y
        with torch.autocast("cuda", dtype=torch.float16):
            y = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
        with MemoryMeter() as meter:
            fake_backward(y.sum())
    weight = model[0].weight
    assert (weight.grad.device.type, weight.grad.dtype) == ("cuda", torch.float32)
    # the same again, and the gradient that comes in
    assert meter.peak_bytes >= 2 * n * c + 2 * c * c + 4 * n * c + 2 * 4 * 4 + 2 * 4 * n * c


@pytest.mark.skipif(torch.cuda.is_available(), reason="nothing is changed where there is a GPU")
def test_autocast_is_as_it_was_afterwards():
    before = torch.cuda.amp.common.amp_definitely_not_available
    with contextlib.suppress(KeyError), cuda_autocast_available():
        assert not torch.cuda.amp.common.amp_definitely_not_available()
        raise KeyError
    assert torch.cuda.amp.common.amp_definitely_not_available is before
