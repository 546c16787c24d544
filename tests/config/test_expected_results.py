import pytest

import gn_det
from gn_det.config import ConfigError
from gn_det.config.expected_results import expected_problems
from gn_det.modeling import check_config


def _problems(expected):
    cfg = gn_det.get_cfg()
    cfg.TEST.EXPECTED_RESULTS = expected
    cfg.DATASETS.TEST = ("any",)
    return list(expected_problems(cfg))


@pytest.mark.parametrize(
    "expected",
    [
        [],
        [["bbox", "AP", 38.0, 0.5], ("segm", "AP-person", 35, 1)],
        (("keypoints", "AP", 0.0, 0),),
        [["bbox_TTA", "AP", 1.0, 1.0]],
    ],
)
def test_good(expected):
    assert _problems(expected) == []


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        (["bbox", "AP", 0.0, 50], "has 'bbox': no list of four."),
        ([["bbox", "AP", 38.0]], "has ['bbox', 'AP', 38.0]: no list of four."),
        ([[1, "AP", 38.0, 0.5]], "task and metric are text."),
        ([["bbox", None, 38.0, 0.5]], "task and metric are text."),
        ([["bbox", "AP", "38", 0.5]], "result and tolerance are numbers."),
        ([["bbox", "AP", float("nan"), 0.5]], "result and tolerance are numbers."),
        ([["bbox", "AP", 38.0, float("nan")]], "result and tolerance are numbers."),
        ([["bbox", "AP", 38.0, True]], "result and tolerance are numbers."),
        ([["box", "AP", 38.0, 0.5]], "there is no task 'box'; known are bbox, segm, "),
    ],
)
def test_malformed(expected, said):
    (problem,) = _problems([["segm", "AP", 1.0, 1.0], *expected])
    assert problem.fatal
    assert problem.message.startswith("TEST.EXPECTED_RESULTS has ")
    assert said in problem.message
    assert problem.message.endswith("such as [['bbox', 'AP', 40.3, 0.2]].")


@pytest.mark.parametrize("training", [True, False])
def test_it_is_among_the_checks(training):
    cfg = gn_det.model_zoo.get_config("mask_rcnn_R50_gn_all")
    cfg.TEST.EXPECTED_RESULTS = [["box", "AP", 38.0, 0.5]]
    with pytest.raises(ConfigError, match="no task 'box'"):
        check_config(cfg, training=training)


def test_without_a_dataset_nothing_would_be_missed():
    cfg = gn_det.model_zoo.get_config("mask_rcnn_R50_gn_all")
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 38.0, 0.5]]
    cfg.DATASETS.TEST = ()
    with pytest.raises(ConfigError, match=r"DATASETS\.TEST is empty: nothing would be compared"):
        check_config(cfg)
