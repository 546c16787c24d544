import pytest

import gn_det
from gn_det.config import values


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
        ["MODEL.PIXEL_MEAN", [100], "MODEL.PIXEL_STD", [50]],
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
