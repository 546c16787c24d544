import pytest
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, build_model
from torch import nn

from gn_det import model_zoo
from gn_det.modeling import find_problems
from gn_det.modeling.build_errors import build_or_explain

R18 = ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
RETINANET_LEVELS = ["MODEL.RETINANET.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]]
DEFORMABLE = ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, True]]


def _problems(cfg):
    """Return what keeps the model from being built."""
    return build_or_explain(cfg)[1]


def _cfg(*options):
    cfg = model_zoo.get_config("mask_rcnn_R50_gn_all")
    cfg.merge_from_list(["MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT", 0, *options])
    return cfg


@pytest.mark.parametrize(
    ("key", "name", "hint"),
    [
        ("META_ARCHITECTURE", "GeneralisedRCNN", "Was GeneralizedRCNN meant?"),
        ("BACKBONE.NAME", "build_gn_resnet_fpn", "Was build_gn_resnet_fpn_backbone meant?"),
        ("BACKBONE.NAME", "zzz", "Known are build_resnet_backbone, "),
        ("PROPOSAL_GENERATOR.NAME", "RPM", "Was RPN meant?"),
        ("RPN.HEAD_NAME", "GNRPNHeads", "Was GNRPNHead meant?"),
        ("ANCHOR_GENERATOR.NAME", "DefaultAnchors", "Was DefaultAnchorGenerator meant?"),
        ("ROI_HEADS.NAME", "GNStandardROIHead", "Was GNStandardROIHeads meant?"),
        ("ROI_BOX_HEAD.NAME", "GNFastRCNNConvHead", "Was GNFastRCNNConvFCHead meant?"),
        ("ROI_MASK_HEAD.NAME", "GNMaskHead", "Known are "),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_name_that_is_not_registered(key, name, hint, training):
    (problem,) = find_problems(_cfg(f"MODEL.{key}", name), training=training)
    assert problem.fatal
    assert problem.message.startswith(f"MODEL.{key} is {name!r}, which is not registered. ")
    assert hint in problem.message


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "FPN.IN_FEATURES",
            ["res2", "res3", "res6"],
            "MODEL.FPN.IN_FEATURES has res6, but MODEL.RESNETS.OUT_FEATURES gives res2, res3, "
            "res4, res5 only.",
        ),
        (
            "ROI_HEADS.IN_FEATURES",
            ["p1", "p2", "p7"],
            "MODEL.ROI_HEADS.IN_FEATURES has p1, p7, but the backbone "
            "gives p2, p3, p4, p5, p6 only.",
        ),
        (
            "ANCHOR_GENERATOR.SIZES",
            [[32], [64], [128]],
            "MODEL.ANCHOR_GENERATOR.SIZES has 3 lists, one a level, but MODEL.RPN.IN_FEATURES has "
            "5 levels (p2, p3, p4, p5, p6).",
        ),
        (
            "ANCHOR_GENERATOR.ASPECT_RATIOS",
            [[0.5, 1.0], [1.0, 2.0]],
            "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS has 2 lists, one a level, but "
            "MODEL.RPN.IN_FEATURES has 5 levels (p2, p3, p4, p5, p6).",
        ),
    ],
)
def test_levels_that_do_not_fit(key, value, message):
    cfg = _cfg(f"MODEL.{key}", value)
    cfg.MODEL.DEVICE = "cpu"
    (problem,) = [p for p in _problems(cfg) if p.message == message]
    assert problem.fatal
    with pytest.raises((AssertionError, KeyError)):  # what it would end in otherwise
        build_model(cfg)


UP_TO_RES4 = [
    *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4"]),
    *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4"]),
    *("MODEL.RPN.IN_FEATURES", ["p3", "p4", "p5"]),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64]]),
    *("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4"]),
]


@pytest.mark.parametrize(
    "options",
    [
        UP_TO_RES4,
        [*UP_TO_RES4, "MODEL.ANCHOR_GENERATOR.SIZES", [[16, 32, 64]]],
        [*UP_TO_RES4, "MODEL.ANCHOR_GENERATOR.SIZES", [16, 32]],
    ],
    ids=["one a level", "one for all", "numbers"],
)
def test_levels_that_fit(options):
    cfg = _cfg(*options, "MODEL.DEVICE", "cpu")
    assert _problems(cfg) == []
    build_model(cfg)


def test_levels_of_other_networks():
    c4 = model_zoo.get_config("mask_rcnn_R50_C4_gn")
    assert _problems(c4) == []
    c4.MODEL.RPN.IN_FEATURES = ["res5"]
    (problem,) = _problems(c4)
    assert "MODEL.RPN.IN_FEATURES has res5, but MODEL.RESNETS.OUT_FEATURES" in problem.message
    retinanet = [
        *("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.BACKBONE.NAME"),
        *("build_retinanet_resnet_fpn_backbone", "MODEL.RETINANET.IN_FEATURES", ["p3", "p4"]),
    ]
    (problem,) = _problems(_cfg(*retinanet))
    assert "SIZES has 5 lists, one a level, but MODEL.RETINANET.IN_FEATURES" in problem.message


@pytest.mark.parametrize(
    "options",
    [
        ["MODEL.ROI_MASK_HEAD.NAME", "x", "MODEL.MASK_ON", False],
        [
            *("MODEL.ROI_BOX_HEAD.NAME", "x", "MODEL.ROI_HEADS.NAME", "GNRes5ROIHeads"),
            *("MODEL.ROI_HEADS.IN_FEATURES", ["p4"]),
        ],
        ["MODEL.ROI_HEADS.NAME", "x", "MODEL.META_ARCHITECTURE", "ProposalNetwork"],
        ["MODEL.RPN.HEAD_NAME", "x", "MODEL.META_ARCHITECTURE", "RetinaNet", *RETINANET_LEVELS],
        ["MODEL.RPN.HEAD_NAME", "x", "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"],
    ],
)
def test_name_of_a_part_that_is_not_there(options):
    assert _problems(_cfg(*options)) == []


def test_names_of_ones_own(monkeypatch):
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "Mine", lambda cfg: nn.Linear(1, 1))
    assert _problems(_cfg("MODEL.META_ARCHITECTURE", "Mine")) == []
    # how it makes a backbone is not known
    own = ["MODEL.META_ARCHITECTURE", "Mine", "MODEL.BACKBONE.NAME", "timm"]
    assert _problems(_cfg(*own)) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["MODEL.RESNETS.DEPTH", 20], "DEPTH is 20; known are 18, 34, 50, 101, 152."),
        (["MODEL.RESNETS.DEPTH", 18], "RES2_OUT_CHANNELS 64, got 256."),
        ([*R18, "MODEL.RESNETS.RES5_DILATION", 2], "RES5_DILATION 1, got 2."),
        ([*R18, "MODEL.RESNETS.NUM_GROUPS", 32], "NUM_GROUPS 1, got 32."),
        ([*R18, *DEFORMABLE], "DEFORM_ON_PER_STAGE is for bottlenecks"),
        ([*DEFORMABLE, "MODEL.GN.WEIGHT_STANDARDIZATION", True], "is for plain convolutions"),
    ],
)
def test_resnet_that_cannot_be_built(options, said):
    cfg = _cfg(*options)
    (problem,) = _problems(cfg)
    assert problem.fatal
    assert said in problem.message
    assert problem in find_problems(cfg)
    with pytest.raises(ValueError, match=r"MODEL\."):
        _build(cfg)


def test_narrow_basic_blocks():
    narrow = [*R18[:3], 32]
    assert _problems(_cfg(*narrow)) == []
    stock = _cfg(*narrow, "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone")
    (problem,) = _problems(stock)
    assert problem.message == (
        "Must set MODEL.RESNETS.RES2_OUT_CHANNELS = 64 for R18/R34. "
        "MODEL.RESNETS.RES2_OUT_CHANNELS is 32."
    )
    with pytest.raises(AssertionError):
        _build(stock)


def _build(cfg):
    return BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, ShapeSpec(channels=3))


@pytest.mark.parametrize(
    "options",
    [
        ["MODEL.BACKBONE.NAME", "build_gn_vgg_backbone"],
        [
            *("MODEL.BACKBONE.NAME", "build_gn_inflated_resnet_backbone"),
            *("MODEL.RESNETS.OUT_FEATURES", ["res5"]),
        ],
    ],
)
def test_other_networks_have_other_depths(options):
    classifier = ["MODEL.META_ARCHITECTURE", "ImageClassifier", "MODEL.RESNETS.DEPTH", 18]
    assert _problems(_cfg(*classifier, *options)) == []


def test_stage_that_there_is_not():
    (problem,) = find_problems(_cfg("MODEL.RESNETS.OUT_FEATURES", ["res4", "res9"]))
    assert problem.fatal
    assert problem.message.startswith("MODEL.RESNETS.OUT_FEATURES has res9, which is no stage")


@pytest.mark.parametrize(("mean", "std"), [([], []), ([1.0], [1.0, 1.0]), ([], [1.0] * 3)])
def test_channels(mean, std):
    cfg = _cfg("MODEL.PIXEL_MEAN", mean, "MODEL.PIXEL_STD", std)
    (problem,) = find_problems(cfg)
    assert problem.message.startswith(f"MODEL.PIXEL_MEAN is {mean} and MODEL.PIXEL_STD {std}: ")
    cfg.merge_from_list(["MODEL.WEIGHTS", "catalog://ImageNetPretrained/FAIR/R-50-GN"])
    assert problem in find_problems(cfg)


def test_norm_that_is_not_for_clips():
    clips = [
        *("MODEL.META_ARCHITECTURE", "ImageClassifier", "MODEL.RESNETS.DEPTH", 18),
        *("MODEL.BACKBONE.NAME", "build_gn_inflated_resnet_backbone"),
        *("MODEL.RESNETS.OUT_FEATURES", ["res5"], "MODEL.RESNETS.NORM", "FrozenBN"),
    ]
    (problem,) = find_problems(_cfg(*clips))
    assert problem.fatal
    assert problem.message.startswith("MODEL.RESNETS.NORM is FrozenBN: FrozenBN is for images; ")


def test_channels_of_a_part_of_detectron2s_own():
    stock = ["MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.CONV_DIM", 100]
    (problem,) = find_problems(_cfg(*stock))
    assert problem.fatal
    assert problem.message == (
        "MODEL.ROI_BOX_HEAD.NORM is 'GN', and its 32 groups do not divide 100 channels."
    )


def test_depth_that_detectron2_does_not_know():
    stock = ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", 20]
    (problem,) = find_problems(_cfg(*stock))
    assert problem.fatal
    assert problem.message.startswith("MODEL.RESNETS.DEPTH is 20, which detectron2.modeling.")


def test_several_norms_at_once():
    """What is wrong with one norm does not hide what is wrong with the others."""
    problems = find_problems(
        _cfg(
            *("MODEL.RESNETS.NORM", "XN", "MODEL.FPN.OUT_CHANNELS", 100),
            *("MODEL.ROI_BOX_HEAD.NORM", "YN", "MODEL.BACKBONE.FREEZE_AT", 2),
        )
    )
    messages = "\n".join(problem.message for problem in problems)
    assert len(problems) == 4
    assert "MODEL.RESNETS.NORM is 'XN', which is not a norm" in messages
    assert "MODEL.ROI_BOX_HEAD.NORM is 'YN', which is not a norm" in messages
    assert "does not divide the 100 channels of backbone.fpn_lateral2" in messages
    assert "MODEL.BACKBONE.FREEZE_AT is 2: random layers" in messages


def test_mistakes_of_ours_are_not_a_warning(monkeypatch):
    monkeypatch.delattr("gn_det.modeling.rpn_head.set_memory")
    with pytest.raises(NameError, match="set_memory"):
        find_problems(_cfg())
