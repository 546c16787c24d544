import pickle

import detectron2.config
import pytest

import gn_det
from gn_det.config import given_keys
from gn_det.modeling.config_checks import find_problems


def _messages(cfg):
    problems = find_problems(cfg)
    assert not any(problem.fatal for problem in problems)
    return [problem.message for problem in problems]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.RETINANET.NMS_THRESH_TEST", 0.6], "0.6 has no effect: no part of this model re"),
        (["MODEL.MASK_ON", False, "MODEL.ROI_MASK_HEAD.CONV_DIM", 32], "no part of this model"),
        (["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 4], "no part of this model reads that."),
        (["PRETRAIN.EPOCHS", 3], "PRETRAIN.EPOCHS 3 has no effect: `gn-det pretrain` alone reads"),
        (["MODEL.VGG.DEPTH", 19], "MODEL.VGG.DEPTH 19 has no effect"),
        (
            ["GLOBAL.HACK", 2],
            "GLOBAL.HACK 2.0 has no effect: Detectron2 and gn_det do not read that.",
        ),
        (
            ["DATALOADER.REPEAT_THRESHOLD", 0.01],
            "that is read with DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler or Weighted",
        ),
        (["INPUT.CROP.SIZE", [0.5, 0.5]], "that is read with INPUT.CROP.ENABLED True alone."),
        (["SOLVER.BASE_LR_END", 0.0001], "read with SOLVER.LR_SCHEDULER_NAME WarmupCosineLR alone"),
        (
            ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.STEPS", (10, 20)],
            "SOLVER.STEPS (10, 20) has no effect: that is read with SOLVER.LR_SCHEDULER_NAME",
        ),
        (["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 5], "read with SOLVER.CLIP_GRADIENTS.ENABLED True"),
        (["TEST.AUG.FLIP", False], "that is read with TEST.AUG.ENABLED True alone."),
        (["TEST.PRECISE_BN.ENABLED", True], "no norm of this model updates statistics."),
        (["DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST", 5], "read with MODEL.LOAD_PROPOSALS True"),
    ],
)
def test_keys_that_nothing_reads(tiny_cfg, options, message):
    (warning,) = _messages(tiny_cfg(*options))
    assert warning.startswith(options[-2])
    assert message in warning


@pytest.mark.parametrize(
    "options",
    [
        ["MODEL.RETINANET.NMS_THRESH_TEST", 0.5],  # the default
        ["MODEL.RPN.NMS_THRESH", 0.6],
        ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.STEPS", ()],
        ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", 1e-5],
        ["INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [0.5, 0.5]],
        ["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 5],
    ],
)
def test_keys_that_are_read(tiny_cfg, options):
    assert _messages(tiny_cfg(*options)) == []


def test_many_keys_are_one_line(tiny_cfg):
    keys = [
        word
        for key in ("NUM_CONVS", "NMS_THRESH_TEST", "PRIOR_PROB", "NUM_CLASSES")
        for word in (f"MODEL.RETINANET.{key}", 0.25 if "_T" in key or "_P" in key else 2)
    ]
    (message,) = _messages(tiny_cfg(*keys))
    assert message == (
        "MODEL.RETINANET.NMS_THRESH_TEST 0.25, MODEL.RETINANET.NUM_CLASSES 2, "
        "MODEL.RETINANET.NUM_CONVS 2 and 1 more have no effect: no part of this model reads that."
    )


def test_keys_of_bases_are_no_news(tmp_path, tiny_cfg):
    (tmp_path / "base.yaml").write_text("MODEL: {RETINANET: {NUM_CONVS: 2}}\nVERSION: 2\n")
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text("_BASE_: base.yaml\nMODEL: {RETINANET: {NMS_THRESH_TEST: 0.6}}\n")
    cfg = tiny_cfg()
    cfg.merge_from_file(str(leaf))
    for same in (cfg, cfg.clone(), pickle.loads(pickle.dumps(cfg))):
        assert "MODEL.RETINANET.NUM_CONVS" not in given_keys(same)
        (message,) = _messages(same)
        assert message.startswith("MODEL.RETINANET.NMS_THRESH_TEST 0.6 has no effect")
    plain = detectron2.config.get_cfg()
    gn_det.add_gn_config(plain)
    plain.merge_from_other_cfg(cfg)
    assert given_keys(plain) == set()
    assert _messages(plain) == []


def test_config_of_a_run_is_no_choice(tmp_path, tiny_cfg):
    path = tmp_path / "config.yaml"
    path.write_text(tiny_cfg("MODEL.RETINANET.NUM_CONVS", 2).dump())
    again = tiny_cfg()
    again.merge_from_file(str(path))
    assert again.MODEL.RETINANET.NUM_CONVS == 2
    assert _messages(again) == []
    again.merge_from_list(["MODEL.RETINANET.NMS_THRESH_TEST", 0.6])
    (message,) = _messages(again)
    assert message.startswith("MODEL.RETINANET.NMS_THRESH_TEST 0.6 has no effect")


def test_lists_of_a_file_are_the_tuples_of_a_default(tmp_path, tiny_cfg):
    path = tmp_path / "some.yaml"
    default = [[w, w, w / 2, w / 2] for w in (10.0, 20.0, 30.0)]
    path.write_text(f"MODEL: {{ROI_BOX_CASCADE_HEAD: {{BBOX_REG_WEIGHTS: {default}}}}}\n")
    cfg = tiny_cfg()
    cfg.merge_from_file(str(path))
    assert _messages(cfg) == []
