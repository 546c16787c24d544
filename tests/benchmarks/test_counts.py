import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import counts
from benchmarks.variants import VARIANTS
from benchmarks.workload import Setting
from gn_det.engine import fake_gpu, memory_estimate
from gn_det.layers import GroupNorm, kernels

needs_fake_gpu = pytest.mark.skipif(not fake_gpu.SUPPORTED, reason="no GPU's tensors without one")


def _fake_cuda(*shape):
    return torch.empty(shape, dtype=torch.bfloat16, device="cuda:0")


@needs_fake_gpu
def test_operations_and_their_bytes():
    with FakeTensorMode(), counts._counters() as (work, ours), memory_estimate.MemoryMeter():
        x = _fake_cuda(2, 64, 10, 10)
        x.add_(x.view(-1).view(x.shape))  # views compute nothing
        torch.nn.functional.relu(x)
    size = 2 * 64 * 10 * 10 * 2
    assert work == {"operations": 2, "bytes": (3 + 2) * size}
    assert not ours


@needs_fake_gpu
def test_launches_of_kernels():
    with FakeTensorMode(), counts._counters() as (work, ours), memory_estimate.MemoryMeter():
        x = _fake_cuda(2, 64, 200, 336)
        if why := kernels.why_not(x):
            pytest.skip(why)
        with torch.device("cuda:0"):
            norm = GroupNorm(64)
        ours.clear(), work.clear()
        norm(x)
    # twice read, once written, and 2 launches; what else there is, is small
    assert ours["operations"] == 2
    assert ours["bytes"] == pytest.approx(3 * 2 * 2 * 64 * 200 * 336, rel=1e-2)
    assert work["operations"] == 0


def test_a_step(tiny_config):
    setting = Setting(config=tiny_config, images=1, height=64, width=96, rois=8)
    names = "stock-gn-bf16", "lean-bf16-channels_last"
    stock, lean = (counts.count(setting, VARIANTS[name]) for name in names)
    assert stock["kernel_launches"] == 0 < stock["operations"]
    assert 0 < lean["kept_bytes"] < stock["kept_bytes"] < stock["peak_bytes"]
    text = counts.table({"setting": vars(setting), "variants": {"a": stock, "b": lean}})
    assert text.splitlines()[-1].split()[:3] == [
        *("b", str(lean["operations"]), str(lean["kernel_launches"]))
    ]
