"""The training step on a GPU: how often it waits, page-locked images, the same bits twice.

The twins on a CPU are tests/engine/test_synchronizations.py, tests/data/test_send.py and
tests/engine/test_determinism.py.
"""

import os
import warnings

import pytest
import torch
from detectron2.data import get_detection_dataset_dicts
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from gn_det.data import build_train_stream
from gn_det.engine.determinism import require_determinism
from gn_det.engine.grad_accum import build_grad_accum_trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def make_trainer(cfg, batch, steps):
    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, foreach=True)
    trainer = build_grad_accum_trainer(cfg, model, [batch] * steps, optimizer)
    trainer.seed = 1
    return trainer


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_engine_waits_once(tiny_cfg, batch, dtype):
    cfg = tiny_cfg(
        *("MODEL.DEVICE", "cuda", "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", dtype),
        *("SOLVER.CLIP_GLOBAL_NORM", 1.0, "SOLVER.EMA_DECAY", 0.9),
    )
    trainer = make_trainer(cfg, batch, 4)
    with EventStorage(0):
        for trainer.iter in range(3):  # a loss scaler may skip the first steps
            trainer.run_step()
        trainer.iter = 3
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                trainer.run_step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
    places = [str(w.filename) for w in caught if "synchronizing CUDA" in str(w.message)]
    assert len([place for place in places if "/gn_det/engine/" in place]) == 1, places
    assert not [place for place in places if place.endswith("/gn_det/data/send.py")], places
    assert len(places) > 10  # of Detectron2: else nothing is counted


def test_images_are_page_locked(tiny_cfg, digits):
    cfg = tiny_cfg(
        *("MODEL.DEVICE", "cuda", "MODEL.ROI_HEADS.NUM_CLASSES", 10),
        *("DATASETS.TRAIN", (digits[0],), "DATALOADER.NUM_WORKERS", 0),
        *("INPUT.MASK_FORMAT", "bitmask"),
    )
    stream = build_train_stream(cfg, get_detection_dataset_dicts(digits[0]))
    assert all(item["image"].is_pinned() for item in next(iter(stream)))


@pytest.mark.parametrize("memory", ["standard", "lean"])
def test_the_same_bits_twice(tiny_cfg, batch, memory, monkeypatch):
    monkeypatch.setenv(
        "CUBLAS_WORKSPACE_CONFIG", os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    )
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", cudnn.benchmark)
    monkeypatch.setattr(cudnn, "deterministic", cudnn.deterministic)
    require_determinism()
    try:
        cfg = tiny_cfg("MODEL.DEVICE", "cuda", "MODEL.GN.MEMORY", memory)
        states = []
        for _ in range(2):
            trainer = make_trainer(cfg, batch, 3)
            with EventStorage(0):
                for trainer.iter in range(3):
                    trainer.run_step()
            states.append(trainer.model.state_dict())
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
