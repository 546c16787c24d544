import pytest

import gn_det
from gn_det.config.values import (
    package_problems,
    pixel_problems,
    precision_problems,
    solver_problems,
    window_problem,
)


def _only(key, value):
    """Return the one problem's message."""
    cfg = gn_det.get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list([key, value])
    (problem,) = [*pixel_problems(cfg), *precision_problems(cfg), *solver_problems(cfg)]
    assert problem.fatal
    return problem.message


def test_unknown_ways_to_save():
    message = _only("SOLVER.ON_SAVE_ERROR", "retry")
    assert "SOLVER.ON_SAVE_ERROR is 'retry'; known are stop, continue." in message
    message = _only("SOLVER.KEEP_CHECKPOINTS", -1)
    assert "SOLVER.KEEP_CHECKPOINTS is -1" in message


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_that_is_none(decay):
    message = _only("SOLVER.EMA_DECAY", decay)
    assert f"SOLVER.EMA_DECAY is {decay}" in message


@pytest.mark.parametrize("norm", [-1.0, float("nan")])
def test_a_clip_that_would_turn_the_gradient_round(norm):
    message = _only("SOLVER.CLIP_GLOBAL_NORM", norm)
    assert f"SOLVER.CLIP_GLOBAL_NORM is {norm}" in message


def test_defaults_are_fine():
    cfg = gn_det.get_cfg()
    assert [*pixel_problems(cfg), *precision_problems(cfg), *solver_problems(cfg)] == []


def test_channels_and_precision():
    assert "MODEL.PIXEL_STD [1.0]: each takes" in _only("MODEL.PIXEL_STD", [1.0])
    assert "Set SOLVER.AMP.DTYPE bfloat16" in _only("SOLVER.AMP.ENABLED", True)
    assert "known are float16 and bfloat16" in _only("SOLVER.AMP.DTYPE", "half")


def test_checkpoint_period():
    assert "SOLVER.CHECKPOINT_PERIOD is 0" in _only("SOLVER.CHECKPOINT_PERIOD", 0)


@pytest.mark.parametrize(
    "window",
    [
        (),
        [],
        (0, 4095),
        [-1000, 1000.5],
        ["0.5%", "99.5%"],
        [0, "99%"],
        ["1%", 4095],
        ["0%", "100%"],
    ],
)
def test_windows(window):
    assert window_problem(window) is None


@pytest.mark.parametrize(
    "window",
    [
        (1,),
        (1, 2, 3),
        (5, 5),
        (5, 1),
        ("99%", "1%"),
        ("1%", "1%"),
        ("0", "1"),
        ("-1%", "99%"),
        ("1%", "101%"),
        ("a%", "99%"),
        ("nan%", "99%"),
        (0, float("nan")),
        (float("-inf"), 0),
        (None, 1),
        (True, 2),
        ([0], 1),
        "0, 1",
        3,
        None,
    ],
)
def test_what_is_no_window(window):
    message = window_problem(window)
    assert message.startswith(f"INPUT.WINDOW is {window!r}: it takes two values [low, high]")
    assert 'such as [0, 4095], or percentiles of each image, such as ["0.5%", "99.5%"]' in message


def test_window_of_a_config():
    assert "INPUT.WINDOW is (3, 1)" in _only("INPUT.WINDOW", (3, 1))
    cfg = gn_det.get_cfg()
    cfg.merge_from_list(["INPUT.WINDOW", '["0.5%", 4095]'])
    assert cfg.INPUT.WINDOW == ("0.5%", 4095)
    assert list(pixel_problems(cfg)) == []


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("[0.5%, 99.5%]", ("0.5%", "99.5%")),
        ("[0, 99.5%]", (0, "99.5%")),
        ("[-1000, 400.5]", (-1000, 400.5)),
        ("[]", ()),
    ],
)
def test_windows_of_a_file(tmp_path, text, window):
    path = tmp_path / "my.yaml"
    path.write_text(f"INPUT: {{WINDOW: {text}}}")
    cfg = gn_det.get_cfg()
    cfg.merge_from_file(str(path))
    assert window == cfg.INPUT.WINDOW
    assert list(pixel_problems(cfg)) == []


def test_channels_of_the_format():
    cfg = gn_det.get_cfg()
    for name, channels in (("L", 1), ("RGB", 3), ("YUV-BT.601", 3), ("RGBA", 4), (None, 2)):
        cfg.INPUT.FORMAT = name
        cfg.MODEL.PIXEL_MEAN = cfg.MODEL.PIXEL_STD = [1.0] * channels
        assert list(pixel_problems(cfg)) == []
    for name, channels in (("RGB", 1), ("BGR", 4), ("RGBA", 3)):
        cfg.INPUT.FORMAT = name
        cfg.MODEL.PIXEL_MEAN = cfg.MODEL.PIXEL_STD = [1.0] * channels
        (problem,) = pixel_problems(cfg)
        assert problem.fatal
        assert f"INPUT.FORMAT {name} has" in problem.message
        assert "channels, but MODEL.PIXEL_MEAN is [1.0" in problem.message


def test_package_for_random_crops(monkeypatch):
    cfg = gn_det.get_cfg()
    monkeypatch.setattr("gn_det.config.values.find_spec", lambda name: None)
    assert list(package_problems(cfg)) == []
    cfg.INPUT.CROP.ENABLED = True
    assert list(package_problems(cfg)) == []  # boxes are cut without it
    cfg.MODEL.MASK_ON = True
    (problem,) = package_problems(cfg)
    assert problem.fatal
    assert "INPUT.CROP.ENABLED" in problem.message
    assert "pip install shapely" in problem.message
    monkeypatch.setattr("gn_det.config.values.find_spec", lambda name: object())
    assert list(package_problems(cfg)) == []
