import time

import pytest
import torch

from benchmarks.gpu import compilation
from benchmarks.gpu.compilation import Job, compile_one, jobs, measure
from benchmarks.gpu.session import Section
from gn_det.layers import kernels
from gn_det.layers.fp32_stats import group_norm_fp32_stats


def test_all_norms():
    found = jobs()
    assert len(set(found)) == len(found) == (13 * 4 + 3 * 6) * 3
    # those that the most important variant needs come first
    assert {(job.dtype, job.layout) for job in found[:39]} == {(torch.bfloat16, "NHWC")}
    assert all(job.relu or not job.residual for job in found)


def test_a_norm_runs_in_both_directions(monkeypatch):
    calls = []

    def group_norm(x, groups, weight, bias, eps, *, relu, residual):
        calls.append((x.shape, x.dtype, x.is_contiguous(), relu, residual is not None))
        return group_norm_fp32_stats(x, groups, weight, bias, eps), None, None

    monkeypatch.setattr(compilation, "DEVICE", "cpu")
    monkeypatch.setattr(kernels, "group_norm", group_norm)
    monkeypatch.setattr(kernels, "why_not", lambda x: "")
    for residual in (False, True):
        assert compile_one(Job((2, 64, 3, 4), torch.float32, "NHWC", True, residual)) > 0
    shape = torch.Size((2, 64, 3, 4))
    assert calls == [(shape, torch.float32, False, True, residual) for residual in (False, True)]


def test_nothing_to_compile(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "why_not", lambda x: "the device is a toaster")
    section = Section(tmp_path / "rows.json", True, time.monotonic() + 9)
    measure(section)
    assert section.rows == {"kernels": {"not run": "the device is a toaster"}}


def test_a_failure_in_backward_is_seen(monkeypatch):
    """Autograd goes on by PyTorch's operators there."""

    def group_norm(x, groups, weight, bias, eps, *, relu, residual):
        monkeypatch.setattr(kernels, "why_not", lambda x: "reduce failed")
        return group_norm_fp32_stats(x, groups, weight, bias, eps), None, None

    monkeypatch.setattr(compilation, "DEVICE", "cpu")
    monkeypatch.setattr(kernels, "group_norm", group_norm)
    with pytest.raises(RuntimeError, match="reduce failed"):
        compile_one(Job((2, 64, 3, 4), torch.float32, "NHWC", True, False))
