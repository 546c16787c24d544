import numpy as np
import pytest
from detectron2.data import transforms as T

import gn_det
from gn_det.data.checks.resized_size import narrow_problem, vanishing_size


def test_as_detectron2_resizes():
    resize = T.ResizeShortestEdge([800], 1333, "choice")
    for size in [(1, 5000), (5000, 1), (1, 2666), (1, 2665), (2, 5400), (640, 480), (1, 1)]:
        width, height = size
        expected = vanishing_size(size)
        image = np.zeros((height, width, 3), np.uint8)
        transform = resize.get_transform(image)
        if expected is None:
            assert min(transform.apply_image(image).shape) > 0
        else:
            assert (transform.new_w, transform.new_h) == expected
            with pytest.raises(ValueError, match="must be > 0"):
                transform.apply_image(image)
    assert vanishing_size((1, 5000)) == (0, 1333)
    assert vanishing_size((5000, 1)) == (1333, 0)
    assert vanishing_size((1, 2666)) is None  # 0.5 is rounded up
    assert vanishing_size((1, 2667)) == (0, 1333)


def test_sizes_of_the_config():
    cfg = gn_det.get_cfg()
    good = [{"file_name": "a.png", "width": 100, "height": 50}, {"file_name": "no_size.png"}]
    assert narrow_problem(good, cfg, training=True) is None
    bad = [*good, {"file_name": "b.png", "width": 1, "height": 5000}]
    assert narrow_problem(bad, cfg, training=True) == (
        "1 image is too narrow to be resized, such as b.png: 1 x 5000 pixels become 0 x 1333 at "
        "INPUT.MAX_SIZE_TRAIN 1333. Remove it from the json, or cut it into parts."
    )
    cfg.INPUT.MAX_SIZE_TRAIN = 2500
    assert narrow_problem(bad, cfg, training=True) is None
    assert "INPUT.MAX_SIZE_TEST 1333" in narrow_problem(bad, cfg, training=False)
    cfg.INPUT.MIN_SIZE_TEST = 0  # nothing is resized
    assert narrow_problem(bad, cfg, training=False) is None
    cfg.INPUT.MAX_SIZE_TRAIN = 49
    assert "1 image is" in narrow_problem(bad, cfg, training=True)
    assert "2 images are" in narrow_problem([*bad, bad[-1]], cfg, training=True)
