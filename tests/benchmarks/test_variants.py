import argparse

import pytest
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from torch import nn

from benchmarks.variants import (
    STOCK_FROZENBN,
    STOCK_GN,
    STOCK_NAMES,
    VARIANTS,
    add_ratios,
    choose,
    set_stock_names,
)


def test_names():
    assert list(VARIANTS)[:4] == [
        *("stock-frozenbn-fp32", "stock-gn-fp32", "stock-frozenbn-bf16", "stock-gn-bf16")
    ]
    assert "lean-bf16-channels_last" in VARIANTS
    assert len(VARIANTS) == 4 + 3 * 2 * 2
    assert all(variant.name == name for name, variant in VARIANTS.items())


def test_choose():
    chosen = [variant.name for variant in choose("minimal-fp32, stock-*-fp32,lean-bf16*")]
    assert chosen == [
        *("stock-frozenbn-fp32", "stock-gn-fp32", "minimal-fp32"),
        *("lean-bf16", "lean-bf16-channels_last"),
    ]
    with pytest.raises(argparse.ArgumentTypeError, match="'lean'; known are stock-frozenbn-fp32,"):
        choose("stock-*,lean")


@pytest.mark.parametrize("name", [STOCK_GN, STOCK_FROZENBN])
def test_stock_is_detectron2_alone(name, tiny_cfg):
    cfg = tiny_cfg()
    before = cfg.dump()
    model = build_model(VARIANTS[name].config(cfg))
    assert cfg.dump() == before
    kinds = {type(module) for module in model.modules()}
    assert {kind.__module__.split(".")[0] for kind in kinds} <= {"detectron2", "torch"}
    wanted, other = (nn.GroupNorm, FrozenBatchNorm2d)[:: 1 if name == STOCK_GN else -1]
    assert wanted in kinds
    assert other not in kinds


def test_a_new_head_is_one_entry(tiny_cfg, monkeypatch):
    monkeypatch.setitem(STOCK_NAMES, "GNKeypointHead", "KRCNNConvDeconvUpsampleHead")
    cfg = tiny_cfg("MODEL.ROI_KEYPOINT_HEAD.NAME", "GNKeypointHead")
    set_stock_names(cfg)
    assert cfg.MODEL.ROI_KEYPOINT_HEAD.NAME == "KRCNNConvDeconvUpsampleHead"
    assert cfg.MODEL.RPN.HEAD_NAME == "StandardRPNHead"


def test_frozenbn_has_the_same_heads_without_norm(tiny_cfg):
    cfg = tiny_cfg()
    frozen = build_model(VARIANTS[STOCK_FROZENBN].config(cfg)).roi_heads.box_head
    gn = build_model(VARIANTS[STOCK_GN].config(cfg)).roi_heads.box_head
    assert len(frozen.conv_norm_relus) == len(gn.conv_norm_relus) == 4
    assert len(frozen.fcs) == len(gn.fcs) == 1
    assert all(conv.norm is None and conv.bias is not None for conv in frozen.conv_norm_relus)


def test_config_of_ours(tiny_cfg):
    cfg = VARIANTS["lean-bf16-channels_last"].config(tiny_cfg())
    assert cfg.MODEL.GN.MEMORY == "lean"
    assert cfg.MODEL.CHANNELS_LAST is True
    assert (cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE) == (True, "bfloat16")
    cfg = VARIANTS["standard-fp32"].config(cfg)
    assert cfg.MODEL.GN.MEMORY == "standard"
    assert cfg.MODEL.CHANNELS_LAST is False
    assert not cfg.SOLVER.AMP.ENABLED


def test_ratios():
    rows = {STOCK_GN: {"seconds": 4.0, "bytes": 10}, "lean-fp32": {"seconds": 5.0, "bytes": 5}}
    add_ratios(rows, "seconds", "bytes")
    assert rows["lean-fp32"]["ratios"] == {
        STOCK_GN: {"seconds": 1.25, "bytes": 0.5},
        STOCK_FROZENBN: {"seconds": None, "bytes": None},
    }
    assert rows[STOCK_GN]["ratios"][STOCK_GN] == {"seconds": 1.0, "bytes": 1.0}
