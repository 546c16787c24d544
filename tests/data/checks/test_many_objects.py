import logging

import pytest

from gn_det.data import warn_of_many_objects


def images(**counts):
    return [(f"{name}.png", ["a"] * n) for name, n in counts.items()]


@pytest.mark.parametrize(
    ("counts", "scored", "detected", "message"),
    [
        ({"x": 100, "y": 3}, 100, 100, ""),
        ({}, 1, 1, ""),
        ({"x": 0}, 1, 0, ""),
        (
            {"x": 3, "y": 156, "z": 120},
            100,
            100,
            "d: 2 of its images have more objects than the 100 that the model returns: even "
            "perfect detections would have an AP below 100. y.png has 156. Set "
            "TEST.DETECTIONS_PER_IMAGE 156.",
        ),
        (
            {"y": 156},
            100,
            None,
            "d: 1 of its images has more objects of a class than the 100 detections that are "
            "scored: even perfect detections would have an AP below 100. y.png has 156. Set "
            "TEST.MAX_DETECTIONS 156.",
        ),
        ({"y": 156}, 100, -1, "Set TEST.MAX_DETECTIONS 156."),  # the model returns all
        ({"y": 156}, 100, 200, "Set TEST.MAX_DETECTIONS 156."),
        ({"y": 156}, 156, 156, ""),
    ],
)
def test_warning(caplog, counts, scored, detected, message):
    with caplog.at_level(logging.WARNING):
        warn_of_many_objects("d", images(**counts), scored, detected)
    assert len(caplog.records) == bool(message)
    assert message in caplog.text


def test_classes_are_scored_by_themselves(caplog):
    crowded = [("x.png", ["a", "b"] * 75)]
    warn_of_many_objects("d", crowded, scored=100)
    assert not caplog.text
    warn_of_many_objects("d", crowded, scored=100, detected=100)
    assert "x.png has 150. Set TEST.DETECTIONS_PER_IMAGE 150." in caplog.text
