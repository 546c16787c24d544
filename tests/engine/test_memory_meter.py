"""MemoryMeter: bytes of hand-worked cases."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from gn_det.engine.memory_meter import MemoryMeter

KB = 1024  # a tensor of 256 floats


def test_counts_what_is_alive_once():
    before = torch.ones(256)
    with MemoryMeter() as meter:
        kept = before + 1
        view = kept.view(16, 16)
        view.add_(1)
        gone = kept * 2
        del gone
        before.mul_(2)
    assert meter.alive_bytes() == KB
    assert meter.peak_bytes == 2 * KB
    del kept
    assert meter.alive_bytes() == KB
    del view
    assert meter.alive_bytes() == 0


def test_sees_what_a_checkpoint_holds_and_what_it_does_not():
    x = torch.ones(256, requires_grad=True)
    with MemoryMeter() as meter:
        y = (x * 2).exp().exp().sum()  # exp keeps its result
    assert meter.alive_bytes() == 2 * KB + 4
    del y
    with MemoryMeter() as meter:
        # the inner exp's input is the checkpoint's own
        y = checkpoint(lambda t: t.exp().exp().sum(), x * 2, use_reentrant=False)
    assert meter.alive_bytes() == KB + 4
    assert meter.peak_bytes > 2 * KB
    y.backward()
    assert torch.allclose(
        x.grad, 2 * torch.exp(torch.tensor(2.0)) * torch.exp(torch.exp(torch.tensor(2.0)))
    )


def test_fake_tensors_have_sizes():
    with FakeTensorMode():
        with MemoryMeter() as meter:
            x = torch.empty(2**30)
            y = x[:256].clone()
        assert meter.alive_bytes() == 2**32 + KB
        del x
        assert meter.alive_bytes() == KB
        assert len(y) == 256
