from importlib.metadata import PackageNotFoundError

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gn_det.layers.kernels import support
from gn_det.layers.kernels.support import why_not


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing is off, and nothing was asked before."""
    monkeypatch.delenv(support.SWITCH, raising=False)
    monkeypatch.setattr(support, "_off", "")
    caches = support._why_not_device, support._capability
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def on_gpu(shape=(2, 8, 3, 5), dtype=torch.float32):
    with FakeTensorMode():
        return torch.empty(shape, dtype=dtype, device="cuda")


WHY_NOT_ON_GPU = support._why_not_device(torch.device("cuda"))
needs_triton = pytest.mark.skipif("Triton" in WHY_NOT_ON_GPU, reason=WHY_NOT_ON_GPU)


def test_a_cpu_has_none_without_the_interpreter():
    expected = "" if support.INTERPRETED else "the device is cpu"
    if "Triton" not in WHY_NOT_ON_GPU:
        assert why_not(torch.ones(2, 8, 3, 5)) == expected


@needs_triton
@pytest.mark.skipif(support.INTERPRETED, reason="a GPU's tensors have no interpreter")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_tensor_on_a_gpu(dtype):
    x = on_gpu(dtype=dtype)
    assert why_not(x) == ""
    assert why_not(x.contiguous(memory_format=torch.channels_last)) == ""
    assert why_not(x[0, :, 0]) == "the tensor is neither contiguous nor channels_last"
    assert why_not(x[:, :0]) == "the tensor is empty"
    assert why_not(x.double()) == "float64 tensors are left to PyTorch"


@needs_triton
@pytest.mark.skipif(support.INTERPRETED, reason="a GPU's tensors have no interpreter")
def test_an_older_gpu(monkeypatch):
    monkeypatch.setattr(support, "_capability", lambda device: (7, 5))
    assert why_not(on_gpu()) == ""
    assert "bfloat16 needs a GPU of compute capability 8.0" in why_not(on_gpu(dtype=torch.bfloat16))


def test_the_switch(monkeypatch):
    monkeypatch.setenv(support.SWITCH, "0")
    assert support._why_not_device(torch.device("cuda")) == "GN_DET_KERNELS is 0"


def test_turned_off_with_one_line(caplog):
    support.turn_off("the compiler failed")
    support.turn_off("the compiler failed")
    assert why_not(torch.ones(1, 1)) == "the compiler failed"
    assert [r.message.count("the compiler failed") for r in caplog.records] == [1]


def test_tritons_other_name(monkeypatch):
    """Nightly builds of PyTorch and NVIDIA's images have Triton under another name."""

    def version(name):
        if name != "pytorch-triton":
            raise PackageNotFoundError
        return "3.6.0+git0123"

    monkeypatch.setattr(support, "version", version)
    assert support._why_not_device(torch.device("meta")) == "the device is meta"
    monkeypatch.setattr(support, "version", lambda name: version("triton"))
    assert support._why_not_device(torch.device("cpu")) == "Triton is not installed"
