"""Twin: tests/engine/test_trainer.py."""

import json

import pytest

from gn_det.engine import Trainer


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_train_and_evaluate(tiny_cfg, digits_options, tmp_path, dtype):
    cfg = tiny_cfg(*digits_options, "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", dtype)
    cfg.merge_from_list(["MODEL.DEVICE", "cuda", "OUTPUT_DIR", str(tmp_path)])
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    assert trainer._trainer.scaler.is_enabled() is (dtype == "float16")
    results = trainer.train()
    assert {"bbox", "segm"} <= results.keys()
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert any("total_loss" in json.loads(line) for line in lines)
