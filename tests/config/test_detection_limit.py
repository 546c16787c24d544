import pytest

from gn_det import get_cfg
from gn_det.config import max_detections
from gn_det.config.detection_limit import max_detections_problems


@pytest.mark.parametrize(
    ("key", "returned", "expected"),
    [(0, 100, 100), (0, 20, 100), (0, -1, 100), (0, 300, 300), (100, 300, 100), (7, 100, 7)],
)
def test_max_detections(key, returned, expected):
    cfg = get_cfg()
    cfg.TEST.MAX_DETECTIONS, cfg.TEST.DETECTIONS_PER_IMAGE = key, returned
    assert max_detections(cfg) == expected
    assert list(max_detections_problems(cfg)) == []


def test_a_negative_number():
    cfg = get_cfg()
    cfg.TEST.MAX_DETECTIONS = -1
    (problem,) = max_detections_problems(cfg)
    assert problem.fatal
    assert problem.message.startswith("TEST.MAX_DETECTIONS is -1: a number of detections, or 0")
