"""gn-det doctor: what it says of this machine, of a GPU that may not be there, and of a model."""

from importlib.metadata import version

import pytest
import torch

from gn_det.cli import doctor
from gn_det.config import ConfigError
from gn_det.layers.kernels import support


@pytest.fixture
def said(capsys):
    """Return a function that runs the command with words, and returns what it prints."""

    def run(*words):
        assert doctor.main(doctor.build_parser().parse_args(words)) is None
        return capsys.readouterr().out

    for cache in (support._why_not_device, support._capability):
        cache.cache_clear()
    yield run
    support._why_not_device.cache_clear()


def rows(text):
    """Return the table of paths: device and dtype -> norm, RoIAlign and why."""
    lines = [line for line in text.splitlines() if line.startswith(("cpu ", "gpu"))]
    table = [[cell for cell in line.split("  ") if cell.strip()] for line in lines]
    return {(r[0].split()[0], r[1].strip()): [c.strip() for c in r[2:]] for r in table if r[2:]}


def test_one_screen_of_this_machine(said, monkeypatch):
    monkeypatch.delenv(support.SWITCH, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    text = said()
    assert f"torch        {version('torch')}" in text
    assert f"numpy        {version('numpy')}" in text
    assert "OMP_NUM_THREADS=3, OMP_WAIT_POLICY=''" in text
    assert len(text.splitlines()) <= 24
    assert max(map(len, text.splitlines())) <= 160
    table = rows(text)
    assert len(table) == 6
    assert table["cpu", "float32"] == ["PyTorch", "sparse matrix", "a CPU's own paths"]
    if not torch.cuda.is_available():
        assert "gpu          none that PyTorch can use" in text
        assert text.count("gpu (none here)") == 3


def test_kernels_that_are_turned_off(said, monkeypatch):
    monkeypatch.setenv(support.SWITCH, "0")
    text = said()
    assert "switches     GN_DET_KERNELS=0" in text
    reason = "GN_DET_KERNELS is 0"
    assert rows(text)["gpu", "float32"] == ["PyTorch", "torchvision in float32", reason]
    assert rows(text)["gpu", "bfloat16"] == ["PyTorch in parts", "torchvision in float32", reason]


def test_a_gpu_and_a_missing_package(said, monkeypatch):
    class Properties:
        name, major, minor, total_memory = "NVIDIA T4", 7, 5, 16 << 30

    def no_memory(index):
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda i: no_memory(i) if i else (5 << 30, 15 << 30)
    )
    monkeypatch.setattr(doctor, "get_nvidia_driver_version", lambda run: "570.1")
    monkeypatch.setattr(doctor, "cpu_has_bfloat16", lambda: False)
    lines = dict(doctor._devices())
    assert "without bfloat16 instructions" in lines["cpu"]
    assert "NVIDIA T4, compute capability 7.5, 5120 of 15360 MiB free, driver" in lines["gpu 0"]
    assert "16384 MiB, not ready: CUDA error: out of memory, driver 570.1" in lines["gpu 1"]
    assert doctor._version("no-such-package") == "not installed"


def test_model_of_a_config(said):
    text = said("--config", "mask_rcnn_R50_gn_all.yaml", "SOLVER.AMP.ENABLED", "True")
    assert "GeneralizedRCNN, 45.7 million parameters" in text
    assert "norms: 69 GroupNorm of 32 groups" in text
    assert "it trains on cuda in float16, contiguous, MODEL.GN.MEMORY standard" in text
    assert "there GroupNorm runs by " in text
    frozen = said("--config", "mask_rcnn_R50_bn_frozen.yaml", "MODEL.DEVICE", "cpu")
    assert "norms: 53 FrozenBatchNorm2d\n" in frozen
    assert "there RoIAlign runs by sparse matrix (a CPU's own paths)" in frozen
    assert "GroupNorm runs" not in frozen
    c4 = said("--config", "mask_rcnn_R50_C4_gn.yaml", "MODEL.DEVICE", "cpu")
    assert "there GroupNorm runs by PyTorch, and RoIAlign runs by sparse matrix" in c4


def test_model_that_cannot_be_built(said):
    with pytest.raises(ConfigError, match="MODEL.DEVICE is 'gpu'; it takes cpu, cuda"):
        said("--config", "mask_rcnn_R50_gn_all.yaml", "MODEL.DEVICE", "gpu")
    with pytest.raises(ConfigError, match="R50_gn_all.yaml: its model cannot be built: .*Nobody"):
        said("--config", "mask_rcnn_R50_gn_all.yaml", "MODEL.BACKBONE.NAME", "Nobody")
