import pytest

import gn_det
from gn_det.config import ConfigError, images_per_micro_batch
from gn_det.config.batches import batch_problems


def make_cfg(batch, per_step=0):
    cfg = gn_det.get_cfg()
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.IMS_PER_STEP = batch, per_step
    return cfg


@pytest.mark.parametrize(
    ("batch", "per_step", "processes", "images"),
    [(16, 0, 1, 16), (16, 0, 8, 2), (16, 1, 1, 1), (16, 2, 4, 2), (16, 4, 4, 4)],
)
def test_images_in_a_forward_pass(batch, per_step, processes, images):
    cfg = make_cfg(batch, per_step)
    assert images_per_micro_batch(cfg, processes) == images
    assert list(batch_problems(cfg, processes, {})) == []


@pytest.mark.parametrize(
    ("batch", "per_step", "processes", "words"),
    [
        (
            16,
            3,
            1,
            "SOLVER.IMS_PER_STEP 3 does not divide the 16 images.*: 1, 2, 4, 8, 16; 0 takes",
        ),
        (16, 8, 4, r"IMS_PER_STEP 8 .* the 4 images .*IMS_PER_BATCH 16, processes: 4.*: 1, 2, 4;"),
        (16, -1, 1, "SOLVER.IMS_PER_STEP -1"),
        (12, 0, 8, "SOLVER.IMS_PER_BATCH 12 cannot be shared equally by 8 processes"),
        (0, 0, 1, "SOLVER.IMS_PER_BATCH 0"),
    ],
)
def test_what_cannot_be_shared(batch, per_step, processes, words):
    cfg = make_cfg(batch, per_step)
    with pytest.raises(ConfigError, match=words):
        images_per_micro_batch(cfg, processes)
    (problem,) = batch_problems(cfg, processes, {"MODEL.FPN.NORM": "BN"})
    assert problem.fatal


def test_unfrozen_bn_is_not_what_it_would_be_on_many_gpus():
    warnings = list(batch_problems(make_cfg(32, 8), 2, {"MODEL.RESNETS.NORM": "BN"}))
    assert [w.fatal for w in warnings] == [False]
    assert "SOLVER.IMS_PER_STEP 8 makes 2 micro-batches a step" in warnings[0].message
    assert "MODEL.RESNETS.NORM is BN" in warnings[0].message
    assert list(batch_problems(make_cfg(32, 8), 2, {})) == []


def test_statistics_are_those_of_a_forward_pass():
    few = list(batch_problems(make_cfg(16, 2), 1, {"MODEL.RESNETS.NORM": "BN"}))
    assert "statistics of 2 images" in few[0].message
    # SyncBN takes them over all processes
    synced = list(batch_problems(make_cfg(16, 1), 4, {"MODEL.RESNETS.NORM": "SyncBN"}))
    assert "statistics of 4 images" in synced[0].message
    assert len(list(batch_problems(make_cfg(16, 0), 8, {"MODEL.RESNETS.NORM": "SyncBN"}))) == 0
