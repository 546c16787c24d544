import pytest

import gn_det
from gn_det.config import values
from gn_det.config.values import package_problems, pixel_problems, window_problem


def _all(cfg):
    problems = (
        values.pixel_problems,
        values.threshold_problems,
        values.data_problems,
        lambda cfg: values.proposal_problems(cfg, ["TRAIN", "TEST"]),
        values.precision_problems,
        values.solver_problems,
    )
    return [problem for find in problems for problem in find(cfg)]


def _cfg(*options):
    cfg = gn_det.get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *options])
    return cfg


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.PIXEL_STD", [1.0]], "MODEL.PIXEL_STD [1.0]: each takes"),
        (["MODEL.PIXEL_STD", [], "MODEL.PIXEL_MEAN", []], "MODEL.PIXEL_STD []: each takes"),
        (["MODEL.RPN.IOU_LABELS", [0, 1]], "MODEL.RPN.IOU_LABELS is [0, 1] and IOU_THRESHOLDS ["),
        (["MODEL.RETINANET.IOU_THRESHOLDS", [0.5, 0.4]], "not below the one before, take n + 1"),
        (["MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.3, 0.5]], "MODEL.ROI_HEADS.IOU_LABELS is [0, 1]"),
        (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"], "MIN_SIZE_TRAIN is (800,) and INPUT.MIN_SIZE"),
        (
            ["INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [384, 600]],
            "with INPUT.CROP.TYPE relative_range it takes shares of the image, 1 at most.",
        ),
        (
            ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute"],
            "INPUT.CROP.SIZE is [0.9, 0.9]; with INPUT.CROP.TYPE absolute it takes whole numbers",
        ),
        (
            ["DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"],
            "reads DATALOADER.RANDOM_SUBSET_RATIO, which Detectron2's config lacks.",
        ),
        (["SOLVER.AMP.ENABLED", True], "MODEL.DEVICE is cpu. Set SOLVER.AMP.DTYPE bfloat16."),
        (["SOLVER.NESTEROV", True, "SOLVER.MOMENTUM", 0], "MOMENTUM 0: it needs a momentum."),
        (
            ["MODEL.LOAD_PROPOSALS", True, "DATASETS.TEST", ("a",)],
            "DATASETS.TEST ('a',) and DATASETS.PROPOSAL_FILES_TEST (): each dataset takes one",
        ),
        (
            ["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"],
            "is PrecomputedProposals, but MODEL.LOAD_PROPOSALS is False.",
        ),
        (["SOLVER.STEPS", (80, 60)], "SOLVER.STEPS is (80, 60): each step comes after"),
        (["SOLVER.STEPS", (60, 60)], "SOLVER.STEPS is (60, 60): each step comes after"),
        (["SOLVER.STEPS", (1, 2), "SOLVER.MAX_ITER", 2], "SOLVER.MAX_ITER 2: there are fewer"),
        (
            ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", 0.1],
            "SOLVER.BASE_LR is 0.001 and SOLVER.BASE_LR_END 0.1: WarmupCosineLR goes from",
        ),
        (
            ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR", 0],
            "and BASE_LR is above 0.",
        ),
        (
            ["SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR", "SOLVER.MAX_ITER", 1000],
            "SOLVER.MAX_ITER is 1000: WarmupStepWithFixedGammaLR needs more iterations than",
        ),
    ],
)
def test_values_that_cannot_be_together(options, message):
    (problem,) = _all(_cfg(*options))
    assert problem.fatal
    assert message in problem.message


@pytest.mark.parametrize(
    "options",
    [
        [],
        [
            *("MODEL.LOAD_PROPOSALS", True, "DATASETS.TEST", ("a",)),
            *("DATASETS.PROPOSAL_FILES_TEST", ("a.pkl",)),
        ],
        ["MODEL.PIXEL_MEAN", [100], "MODEL.PIXEL_STD", [50], "INPUT.FORMAT", "L"],
        ["MODEL.RPN.IOU_THRESHOLDS", [0.5], "MODEL.RPN.IOU_LABELS", [0, 1]],
        ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", (640, 800)],
        ["INPUT.CROP.SIZE", [384, 600]],  # it is not read
        [
            *("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute_range"),
            *("INPUT.CROP.SIZE", [384, 600]),
        ],
        ["SOLVER.STEPS", (60, 80), "SOLVER.MAX_ITER", 2],  # Detectron2 warns of these
        ["SOLVER.STEPS", (1,), "SOLVER.MAX_ITER", 2],
        ["SOLVER.STEPS", (80, 60), "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"],
        ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16"],
    ],
)
def test_values_that_can(options):
    assert _all(_cfg(*options)) == []


def test_a_sampler_whose_key_was_added():
    cfg = _cfg("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler")
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    assert _all(cfg) == []


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


@pytest.mark.parametrize("window", [("0", "4095"), (0, "1e4"), ("5", "95%")])
def test_a_window_of_text_is_no_number(window):
    assert "is text: write a number, such as 1000.0, or one with %." in window_problem(window)


def test_window_of_a_config():
    (problem,) = _all(_cfg("INPUT.WINDOW", (3, 1)))
    assert "INPUT.WINDOW is (3, 1)" in problem.message
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
