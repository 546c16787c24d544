import logging

import pytest
import torch

from gn_det.engine import precision
from gn_det.engine.precision import autocast, cpu_has_bfloat16, grad_scaler


@pytest.fixture
def cfg(tiny_cfg):
    return tiny_cfg()


@pytest.fixture(autouse=True)
def not_yet_warned():
    precision._warn_once.cache_clear()


def _enable(cfg, dtype, device="cpu"):
    cfg.SOLVER.AMP.ENABLED = True
    cfg.SOLVER.AMP.DTYPE = dtype
    cfg.MODEL.DEVICE = device
    return cfg


def _product():
    return torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype


def test_off_by_default(cfg):
    with autocast(cfg):
        assert _product() == torch.float32
    assert not grad_scaler(cfg).is_enabled()


def test_bfloat16_on_a_cpu(cfg):
    _enable(cfg, "bfloat16")
    with autocast(cfg):
        assert _product() == torch.bfloat16
    assert _product() == torch.float32
    assert not grad_scaler(cfg).is_enabled()


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_autocast_of_a_gpu(cfg, device, dtype, monkeypatch):
    # without a GPU PyTorch switches the context off, so that what is asked for is looked at
    asked = []
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: asked.append((args, kwargs)))
    autocast(_enable(cfg, dtype, device))
    assert asked == [(("cuda",), {"dtype": getattr(torch, dtype)})]


def test_float16_has_a_scaler(cfg):
    assert grad_scaler(_enable(cfg, "float16")).is_enabled()
    assert not grad_scaler(_enable(cfg, "bfloat16")).is_enabled()
    cfg.SOLVER.AMP.DTYPE, cfg.SOLVER.AMP.ENABLED = "float16", False
    assert not grad_scaler(cfg).is_enabled()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16 sha\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx512f amx_bf16 amx_tile\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd sve bf16 i8mm\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\nflags\t: bf16", False),
        ("processor\t: 0\nmodel name\t: bf16\n", None),
        (None, None),
    ],
)
def test_what_the_cpu_can_do(text, expected, tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(precision, "CPUINFO", path)
    assert cpu_has_bfloat16() is expected


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="not in this PyTorch")
def test_what_this_cpu_can_do():
    able = torch.cpu.get_capabilities()
    if able["architecture"] != "x86_64" or not precision.CPUINFO.is_file():
        pytest.skip("PyTorch tells it for x86, /proc on Linux")
    assert cpu_has_bfloat16() == (able["avx512_bf16"] or able["amx_bf16"])


@pytest.mark.parametrize(("able", "warnings"), [(False, 1), (True, 0), (None, 0)])
def test_slow_bfloat16_is_warned_of_once(cfg, able, warnings, monkeypatch, caplog):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: able)
    _enable(cfg, "bfloat16")
    with caplog.at_level(logging.WARNING, "gn_det"):
        for _ in range(3):
            with autocast(cfg):
                assert _product() == torch.bfloat16  # the setting stays the user's
    assert len(caplog.records) == warnings
    if warnings:
        assert "SOLVER.AMP.DTYPE bfloat16" in caplog.text
        assert len(caplog.records[0].getMessage().splitlines()) == 1


def test_others_are_not_warned_of(cfg, monkeypatch, caplog):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    with caplog.at_level(logging.WARNING, "gn_det"):
        autocast(cfg)
        monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: None)
        autocast(_enable(cfg, "bfloat16", "cuda"))
    assert not caplog.records


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize(
    ("dtype", "capability", "warnings"),
    [("bfloat16", (7, 5), 1), ("bfloat16", (8, 0), 0), ("float16", (7, 5), 0)],
)
def test_a_gpu_without_bfloat16_is_warned_of_once(
    cfg, dtype, capability, warnings, monkeypatch, caplog
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", {"cuda:1": capability}.get)
    monkeypatch.setattr(torch.cuda, "get_device_name", {"cuda:1": "Tesla T4"}.get)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: None)
    with caplog.at_level(logging.WARNING, "gn_det"):
        for _ in range(2):
            autocast(_enable(cfg, dtype, "cuda:1"))
    assert len(caplog.records) == warnings
    if warnings:
        assert "(Tesla T4) has no bfloat16" in caplog.text
        assert "SOLVER.AMP.DTYPE float16" in caplog.text
