import pytest
import torch

from gn_det.engine.precision import autocast, grad_scaler


@pytest.fixture
def cfg(tiny_cfg):
    return tiny_cfg()


def test_off_by_default(cfg):
    with autocast(cfg):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32
    assert not grad_scaler(cfg).is_enabled()


def test_bfloat16_on_a_cpu(cfg):
    cfg.SOLVER.AMP.ENABLED = True
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    with autocast(cfg):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16
    assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32
    assert not grad_scaler(cfg).is_enabled()


def test_float16_has_a_scaler(cfg):
    cfg.SOLVER.AMP.ENABLED = True
    cfg.SOLVER.AMP.DTYPE = "float16"
    assert grad_scaler(cfg).is_enabled()
