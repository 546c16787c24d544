import pytest

import gn_det
from gn_det.config import ConfigError, config_folder
from gn_det.engine.pretrain_schedule import iterations_per_epoch, scheduled, warn_of_schedule

IMAGENET = 1281167


def _cfg(*options):
    cfg = gn_det.get_cfg()
    cfg.merge_from_file(str(config_folder() / "pretrain" / "resnet50_gn.yaml"))
    cfg.merge_from_list(list(options))
    return cfg


def test_the_papers_schedule_on_imagenet():
    # 1,281,167 = 5,004 * 256 + 143
    assert iterations_per_epoch(_cfg(), IMAGENET) == 5004
    run = scheduled(_cfg(), IMAGENET)
    assert run.SOLVER.MAX_ITER == 500400
    assert run.SOLVER.STEPS == (150120, 300240, 450360)
    assert (run.SOLVER.BASE_LR, run.SOLVER.GAMMA, run.SOLVER.WARMUP_ITERS) == (0.1, 0.1, 0)
    assert run.TEST.EVAL_PERIOD == run.SOLVER.CHECKPOINT_PERIOD == 5004


@pytest.mark.parametrize(
    ("images", "lr", "epoch"), [(512, 0.2, 2502), (64, 0.025, 20018), (16, 0.00625, 80072)]
)
def test_linear_rule(images, lr, epoch):
    cfg = _cfg("SOLVER.IMS_PER_BATCH", images, "SOLVER.BASE_LR_END", 0.01)
    s = scheduled(cfg, IMAGENET).SOLVER
    rates = [s.BASE_LR, s.BASE_LR_END]
    assert rates == pytest.approx([lr, lr / 10])
    assert list(s.STEPS) == [30 * epoch, 60 * epoch, 90 * epoch]


def test_other_reference():
    keys = ["SOLVER.IMS_PER_BATCH", 64, "PRETRAIN.REFERENCE_BATCH", 32, "SOLVER.BASE_LR", 0.5]
    assert scheduled(_cfg(*keys), 100).SOLVER.BASE_LR == 1.0


def test_other_epochs():
    keys = ["PRETRAIN.EPOCHS", 20, "PRETRAIN.STEPS", (10, 15, 20, 30), "SOLVER.IMS_PER_BATCH", 4]
    run = scheduled(_cfg(*keys, "PRETRAIN.EVAL_PERIOD", 5), 11)
    assert (run.SOLVER.MAX_ITER, run.SOLVER.STEPS, run.TEST.EVAL_PERIOD) == (40, (20, 30), 10)


def test_fewer_images_than_a_batch():
    run = scheduled(_cfg(), 6)
    assert (run.SOLVER.MAX_ITER, run.SOLVER.STEPS) == (100, (30, 60, 90))


def test_checkpoints_more_often_than_evaluations():
    run = scheduled(_cfg("SOLVER.CHECKPOINT_PERIOD", 500), IMAGENET)
    assert (run.SOLVER.CHECKPOINT_PERIOD, run.TEST.EVAL_PERIOD) == (500, 5004)


@pytest.mark.parametrize(
    ("keys", "images", "said"),
    [
        ([], IMAGENET, []),
        (["PRETRAIN.EPOCHS", 20], IMAGENET, ["PRETRAIN.EPOCHS is 20"]),
        (["PRETRAIN.EPOCHS", 20, "PRETRAIN.STEPS", ()], IMAGENET, []),
        (["PRETRAIN.EPOCHS", 30, "PRETRAIN.STEPS", (29,)], IMAGENET, []),
        ([], 500, ["500 images has 1 steps", "the run 100"]),
        (["SOLVER.IMS_PER_BATCH", 8], 500, []),
    ],
)
def test_a_recipe_for_other_data_is_warned_of(keys, images, said, caplog):
    warn_of_schedule(_cfg(*keys), images)
    assert bool(caplog.text) == bool(said)
    for words in said:
        assert words in caplog.text


def test_the_config_keeps_the_recipe():
    cfg = _cfg("SOLVER.IMS_PER_BATCH", 64)
    before = cfg.dump()
    cfg.freeze()
    run = scheduled(cfg, IMAGENET)
    assert cfg.dump() == before
    again = gn_det.get_cfg()
    again.merge_from_other_cfg(cfg)
    assert scheduled(again, IMAGENET) == run


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("SOLVER.MAX_ITER", 90000, r"SOLVER\.MAX_ITER 90000: .*Set PRETRAIN\.EPOCHS"),
        ("SOLVER.STEPS", (60000,), r"SOLVER\.STEPS \(60000,\): .*Set PRETRAIN\.STEPS"),
        ("TEST.EVAL_PERIOD", 500, r"TEST\.EVAL_PERIOD 500: .*Set PRETRAIN\.EVAL_PERIOD"),
        ("SOLVER.BEST_METRIC", "x", r"SOLVER\.BEST_METRIC x: pre-training keeps no best"),
        ("PRETRAIN.EPOCHS", 0, r"PRETRAIN\.EPOCHS is 0"),
        ("PRETRAIN.EVAL_PERIOD", 0, r"PRETRAIN\.EVAL_PERIOD is 0"),
        ("PRETRAIN.REFERENCE_BATCH", 0, r"PRETRAIN\.REFERENCE_BATCH is 0"),
    ],
)
def test_what_cannot_be(key, value, words):
    with pytest.raises(ConfigError, match=words):
        scheduled(_cfg(key, value), IMAGENET)
