import logging

import pytest
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

import gn_det
from gn_det import model_zoo
from gn_det.config import ConfigError, Problem
from gn_det.modeling import check_config, find_problems

SCRATCH = ["MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT", 0]
R18 = [*SCRATCH, "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
STOCK = ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"]
STOCK += ["MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"]
STOCK += ["MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"]
STOCK_C4 = ["MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.ROI_HEADS.NAME", "Res5ROIHeads"]
KEYS = ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD")
R50_MSRA = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"


def _all_norms(name):
    return [x for key in KEYS for x in (f"MODEL.{key}.NORM", name)]


def _find(*options, config="mask_rcnn_R50_gn_all", **kwargs) -> list[Problem]:
    cfg = model_zoo.get_config(config)
    cfg.merge_from_list(list(options))
    cfg.freeze()
    return find_problems(cfg, **kwargs)


def _but_unread(*options):
    """Return the problems but the warning of keys that no part of the model reads."""
    problems = _find(*options)
    unread = [p for p in problems if "no part of this model reads that" in p.message]
    assert len(unread) == 1
    assert not unread[0].fatal
    return [p for p in problems if p not in unread]


def _only(problems: list[Problem], fatal: bool = True) -> str:
    """Return the message of the one problem."""
    assert len(problems) == 1, problems
    assert problems[0].fatal is fatal
    return problems[0].message


@pytest.mark.parametrize("config", ["mask_rcnn_R50_gn_all", "mask_rcnn_R50_C4_bn_frozen"])
@pytest.mark.parametrize("training", [True, False])
def test_good_config(config, training):
    assert _find(config=config, training=training) == []


@pytest.mark.parametrize("key", KEYS)
def test_unknown_norm(key):
    message = _only(_find(*SCRATCH, f"MODEL.{key}.NORM", "GroupNorm"))
    assert f"MODEL.{key}.NORM is 'GroupNorm'" in message
    assert "'', 'BN', 'SyncBN', 'FrozenBN', 'GN', 'LN', 'IN'" in message


def test_weight_standardization_with_detectron2s_own_parts():
    on = ["MODEL.GN.WEIGHT_STANDARDIZATION", True]
    assert _find(*SCRATCH, *on) == []
    text = "\n".join(p.message for p in _find(*SCRATCH, *STOCK, *on))
    assert "build_resnet_fpn_backbone is Detectron2's own and knows nothing of MODEL.GN." in text
    assert "Set MODEL.ROI_MASK_HEAD.NAME GNMaskRCNNConvUpsampleHead." in text


@pytest.mark.parametrize(
    "on", [["MODEL.CHANNELS_LAST", True], ["MODEL.GN.MEMORY", "lean"]], ids=lambda on: on[0]
)
def test_detectron2s_own_parts_ignore(on):
    assert _find(*SCRATCH, *on) == []
    text = "\n".join(p.message for p in _find(*SCRATCH, *STOCK, *on))
    assert f"build_resnet_fpn_backbone is Detectron2's own and knows nothing of {on[0]}" in text
    assert "Set MODEL.ROI_BOX_HEAD.NAME GNFastRCNNConvFCHead." in text
    assert "Set MODEL.ROI_MASK_HEAD.NAME GNMaskRCNNConvUpsampleHead." in text
    c4 = _find(*SCRATCH, *STOCK_C4, *on, config="mask_rcnn_R50_C4_gn")
    assert [p.fatal for p in c4] == [True, True]
    retina = ["MODEL.META_ARCHITECTURE", "RetinaNet", *STOCK[2:]]
    retina += ["MODEL.RETINANET.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]]
    assert _but_unread(*SCRATCH, *on, *retina) == []


def test_unknown_memory_mode():
    (problem,) = _find(*SCRATCH, "MODEL.GN.MEMORY", "small")
    assert problem.fatal
    assert "MODEL.GN.MEMORY is 'small'; known are standard, lean, minimal." in problem.message


@pytest.mark.parametrize("name", ["", "GN", "LN", "IN"])
def test_known_norms(name):
    assert _find(*SCRATCH, *_all_norms(name)) == []


def test_unknown_norm_of_a_part_that_is_not_there():
    part = ["MODEL.ROI_MASK_HEAD.NORM", "GroupNorm", "MODEL.MASK_ON", False]
    assert _but_unread(*part) == []


@pytest.mark.parametrize(
    ("options", "key", "layer", "channels"),
    [
        (
            ["MODEL.FPN.OUT_CHANNELS", 100],
            "FPN",
            "backbone.fpn_lateral2 (MODEL.FPN.OUT_CHANNELS)",
            100,
        ),
        (
            ["MODEL.ROI_BOX_HEAD.CONV_DIM", 100],
            "ROI_BOX_HEAD",
            "roi_heads.box_head.conv1 (MODEL.ROI_BOX_HEAD.CONV_DIM)",
            100,
        ),
        (
            ["MODEL.ROI_MASK_HEAD.CONV_DIM", 100],
            "ROI_MASK_HEAD",
            "roi_heads.mask_head.mask_fcn1 (MODEL.ROI_MASK_HEAD.CONV_DIM)",
            100,
        ),
        (
            ["MODEL.RESNETS.STEM_OUT_CHANNELS", 48],
            "RESNETS",
            "backbone.bottom_up.stem.conv1 (MODEL.RESNETS.STEM_OUT_CHANNELS)",
            48,
        ),
        (
            ["MODEL.RESNETS.WIDTH_PER_GROUP", 48],
            "RESNETS",
            "backbone.bottom_up.res2.0.conv1 (MODEL.RESNETS.WIDTH_PER_GROUP)",
            48,
        ),
        (
            ["MODEL.RESNETS.RES2_OUT_CHANNELS", 80],
            "RESNETS",
            "backbone.bottom_up.res2.0.shortcut (MODEL.RESNETS.RES2_OUT_CHANNELS)",
            80,
        ),
    ],
)
def test_groups_that_do_not_divide(options, key, layer, channels):
    problems = _find(*SCRATCH, *options)
    assert all(problem.fatal for problem in problems)
    message = problems[0].message
    assert f"MODEL.{key}.NORM is GN" in message
    assert f"MODEL.GN.NUM_GROUPS 32 does not divide the {channels} channels of {layer}" in message
    divisors = [d for d in range(1, channels + 1) if channels % d == 0]
    assert message.endswith(f"These do: {', '.join(map(str, divisors))}.")
    # the norms that take any number of channels
    for norm in ("LN", "IN", "FrozenBN"):
        assert _find(*SCRATCH, *options, *_all_norms(norm), training=False) == []
    # a count that divides
    assert _find(*SCRATCH, *options, "MODEL.GN.NUM_GROUPS", 4) == []
    # only where the channels are GN's
    if key != "RESNETS":
        assert _find(*SCRATCH, *options, f"MODEL.{key}.NORM", "") == []


@pytest.mark.parametrize(("value", "good"), [(16, True), (64, True), (24, False)])
def test_channels_per_group(value, good):
    problems = _find(*SCRATCH, "MODEL.GN.CHANNELS_PER_GROUP", value)
    assert bool(problems) is not good
    for problem in problems:
        assert f"MODEL.GN.CHANNELS_PER_GROUP {value} does not divide" in problem.message


def test_no_groups_at_all():
    assert any("NUM_GROUPS is 0" in p.message for p in _find(*SCRATCH, "MODEL.GN.NUM_GROUPS", 0))


def test_basic_blocks_have_no_bottleneck():
    width = ["MODEL.RESNETS.WIDTH_PER_GROUP", 48]
    assert _find(*R18, *width) == []
    assert "res2.0.conv1 (MODEL.RESNETS.WIDTH_PER_GROUP)" in _only(_find(*SCRATCH, *width))


def test_box_head_without_convolutions_has_no_norm():
    options = ["MODEL.ROI_BOX_HEAD.CONV_DIM", 100, "MODEL.ROI_BOX_HEAD.NUM_CONV", 0]
    assert _find(*SCRATCH, *options) == []


def test_cascade_heads_have_a_box_head():
    cascade = ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads"]
    message = _only(_find(*SCRATCH, *cascade))
    assert message.startswith(
        "Detectron2 cannot build the model: CascadeROIHeads only support class-agnostic"
    )
    cascade += ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
    assert _find(*SCRATCH, *cascade) == []
    message = _only(_find(*SCRATCH, *cascade, "MODEL.ROI_BOX_HEAD.CONV_DIM", 100))
    assert "roi_heads.box_head.0.conv1 (MODEL.ROI_BOX_HEAD.CONV_DIM)" in message


@pytest.mark.parametrize(
    "options", [["MODEL.GN.NUM_GROUPS", 16], ["MODEL.GN.CHANNELS_PER_GROUP", 16]]
)
def test_detectron2s_own_names_ignore_our_keys(options):
    problems = _find(*SCRATCH, *STOCK, *options)
    assert [p.fatal for p in problems] == [True] * 4
    text = "\n".join(p.message for p in problems)
    assert "MODEL.BACKBONE.NAME build_resnet_fpn_backbone is Detectron2's own" in text
    for key in KEYS:
        assert f"nothing of MODEL.{key}.NORM GN" in text
    assert "Set MODEL.BACKBONE.NAME build_gn_resnet_fpn_backbone." in text
    assert "Set MODEL.ROI_BOX_HEAD.NAME GNFastRCNNConvFCHead." in text
    assert "Set MODEL.ROI_MASK_HEAD.NAME GNMaskRCNNConvUpsampleHead." in text


@pytest.mark.parametrize("norm", ["LN", "IN"])
def test_detectron2s_own_names_do_not_know_ln_and_in(norm):
    assert len(_find(*SCRATCH, *STOCK, *_all_norms(norm))) == 4
    # the pyramid alone
    text = _only(_find(*STOCK, "MODEL.FPN.NORM", norm))
    assert f"nothing of MODEL.FPN.NORM {norm}" in text


def test_detectron2s_own_c4_heads():
    config = "mask_rcnn_R50_C4_gn"
    problems = _find(*SCRATCH, *STOCK_C4, "MODEL.GN.NUM_GROUPS", 16, config=config)
    assert len(problems) == 2
    assert "Set MODEL.ROI_HEADS.NAME GNRes5ROIHeads." in problems[1].message
    assert _find(*SCRATCH, *STOCK_C4, config=config) == []


def test_detectron2s_own_names_do_for_plain_gn():
    assert _find(*STOCK) == []
    # a model without RoI heads keeps Detectron2's default name of them
    options = ["MODEL.META_ARCHITECTURE", "ProposalNetwork", "MODEL.ROI_HEADS.NAME", "Res5ROIHeads"]
    assert _find(*SCRATCH, *options, "MODEL.GN.NUM_GROUPS", 16) == []


def test_sync_bn_over_processes_without_gpus():
    options = [*SCRATCH, *_all_norms("SyncBN"), "MODEL.DEVICE"]
    message = _only(_find(*options, "cpu", num_processes=2))
    assert "MODEL.RESNETS.NORM, MODEL.FPN.NORM" in message
    assert "2 processes" in message
    assert _find(*options, "cuda", num_processes=2) == []
    assert _find(*options, "cpu", num_processes=1) == []
    assert _find(*options, "cpu", num_processes=2, training=False) == []


def test_float16_on_a_cpu():
    amp = ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE"]
    assert "Set SOLVER.AMP.DTYPE bfloat16" in _only(_find(*amp, "float16", "MODEL.DEVICE", "cpu"))
    assert _find(*amp, "bfloat16", "MODEL.DEVICE", "cpu") == []
    assert _find(*amp, "float16", "MODEL.DEVICE", "cuda") == []
    assert _find("SOLVER.AMP.DTYPE", "float16", "MODEL.DEVICE", "cpu") == []  # not enabled
    assert "'half'" in _only(_find(*amp, "half"))


def test_random_layers_that_stay_frozen():
    options = ["MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT"]
    message = _only(_find(*options, 2))
    assert "MODEL.BACKBONE.FREEZE_AT is 2" in message
    assert "39.5 box AP with FREEZE_AT 0 and 36.2 with 2" in message
    assert "MODEL.GN.ALLOW_FROZEN_RANDOM True" in message
    assert _find(*options, 0) == []
    assert _find(*options, 2, "MODEL.GN.ALLOW_FROZEN_RANDOM", True) == []
    assert _find(*options, 2, training=False) == []
    assert _find(*options, 2, weights_loaded=True) == []


def test_frozen_bn_from_scratch():
    frozen = [*SCRATCH, "MODEL.RESNETS.NORM", "FrozenBN"]
    message = _only(_find(*frozen))
    assert "MODEL.RESNETS.NORM is FrozenBN" in message
    assert "MODEL.GN.ALLOW_FROZEN_RANDOM True" in message
    assert _find(*frozen, "MODEL.GN.ALLOW_FROZEN_RANDOM", True) == []
    assert _find(*frozen, training=False) == []
    assert _find(*frozen, weights_loaded=True) == []


@pytest.mark.parametrize("key", ["FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD"])
def test_frozen_bn_that_backbone_weights_do_not_have(key):
    frozen = [f"MODEL.{key}.NORM", "FrozenBN"]
    message = _only(_find(*frozen))
    assert "R-50-GN is of a backbone alone" in message
    assert f" MODEL.{key}.NORM is FrozenBN" in message
    assert "MODEL.GN.ALLOW_FROZEN_RANDOM True" in message
    assert _find(*frozen, "MODEL.GN.ALLOW_FROZEN_RANDOM", True) == []
    assert _find(*frozen, "MODEL.WEIGHTS", "output/model_final.pth") == []
    assert _find(*frozen, training=False) == []
    assert _find(*frozen, weights_loaded=True) == []
    # the backbone's own is in the weights
    message = _only(_find(*frozen, config="mask_rcnn_R50_bn_frozen_4conv1fc"))
    assert "MODEL.RESNETS.NORM" not in message


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "LN", ""])
def test_gn_weights_in_another_network(norm):
    message = _only([p for p in _find("MODEL.RESNETS.NORM", norm) if p.fatal])
    assert "FAIR/R-50-GN was trained with GN" in message
    assert f"MODEL.RESNETS.NORM is {norm!r}" in message


@pytest.mark.parametrize("norm", ["GN", "LN", "IN", ""])
def test_bn_weights_in_another_network(norm):
    options = ["MODEL.RESNETS.NORM", norm]
    message = _only(_find(*options, config="mask_rcnn_R50_bn_frozen"))
    assert f"{R50_MSRA} was trained with BN" in message
    assert f"MODEL.RESNETS.NORM is {norm!r}" in message
    # evaluation is as wrong, a checkpoint on top of it is not
    assert len(_find(*options, config="mask_rcnn_R50_bn_frozen", training=False)) == 1
    assert _find(*options, config="mask_rcnn_R50_bn_frozen", weights_loaded=True) == []


def test_bn_weights_in_a_bn_network():
    assert _find("MODEL.RESNETS.NORM", "BN", config="mask_rcnn_R50_bn_frozen") == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["MODEL.RESNETS.DEPTH", 101], ["ResNet-50", "MODEL.RESNETS.DEPTH is 101"]),
        (["MODEL.GN.NUM_GROUPS", 16], ["32 groups", "MODEL.GN.NUM_GROUPS is 16"]),
        (["MODEL.GN.CHANNELS_PER_GROUP", 16], ["32 groups", "CHANNELS_PER_GROUP is 16"]),
        (["MODEL.RESNETS.STRIDE_IN_1X1", True], ["3x3", "STRIDE_IN_1X1 is True", "to False"]),
        (["MODEL.PIXEL_STD", [57.375, 57.12, 58.395]], ["MODEL.PIXEL_STD [1.0", "57.375"]),
        (["MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53]], ["MODEL.PIXEL_MEAN [103.53"]),
        (["INPUT.FORMAT", "RGB"], ["BGR images", "INPUT.FORMAT is RGB"]),
    ],
)
def test_weights_that_need_something_else(options, words):
    message = _only(_find(*options))
    assert message.startswith("MODEL.WEIGHTS catalog://ImageNetPretrained/FAIR/R-50-GN ")
    for word in words:
        assert word in message
    assert _find(*options, weights_loaded=True) == []
    unknown = ["MODEL.WEIGHTS", "output/model_final.pth"]
    assert _find(*options, *unknown) == []


def test_stride_on_the_other_side():
    options = ["MODEL.RESNETS.STRIDE_IN_1X1", False]
    message = _only(_find(*options, config="mask_rcnn_R50_bn_frozen"))
    assert "on the 1x1 convolution" in message
    assert "Set it to True" in message


class Strided(Backbone):
    """One convolution for each of res2 to res5."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        self._out_features = ["res2", "res3", "res4", "res5"]
        self._out_feature_strides = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
        self._out_feature_channels = dict.fromkeys(self._out_features, 8)
        for name, stride in self._out_feature_strides.items():
            self.add_module(name, nn.Conv2d(input_shape.channels, 8, stride, stride))

    def forward(self, x):
        return {name: self.get_submodule(name)(x) for name in self._out_features}


RES2_TO_RES5 = [
    *("MODEL.RPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
    *("MODEL.ROI_HEADS.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[32, 64]]),
]


def test_weights_of_a_backbone_that_is_no_resnet(monkeypatch):
    monkeypatch.setitem(BACKBONE_REGISTRY._obj_map, "build_regnet_backbone", Strided)
    options = ["MODEL.BACKBONE.NAME", "build_regnet_backbone", *RES2_TO_RES5]
    options += ["MODEL.RESNETS.DEPTH", 101]
    assert _but_unread(*options) == []


@pytest.mark.parametrize(("images", "processes", "each"), [(16, 8, "2"), (7, 1, "7"), (24, 8, "3")])
def test_batch_norm_at_few_images(images, processes, each):
    options = [*SCRATCH, "MODEL.RESNETS.NORM", "BN", "SOLVER.IMS_PER_BATCH", images]
    problems = _find(*options, num_processes=processes)
    message = _only([p for p in problems if not p.fatal], fatal=False)
    assert "MODEL.RESNETS.NORM is BN" in message
    assert f"statistics of {each} images" in message
    assert "BN 23.6, 23.7, 24.8, 27.3, 34.7; GN 24.1, 24.2, 24.0, 24.2, 24.1" in message
    assert _find(*options, num_processes=processes, training=False) == []


@pytest.mark.parametrize("norm", ["GN", "FrozenBN", "LN", "IN", ""])
def test_micro_batches_make_no_difference_without_batch_statistics(norm):
    options = ["MODEL.WEIGHTS", "output/model_final.pth", *_all_norms(norm)]
    options += ["SOLVER.IMS_PER_BATCH", 32, "SOLVER.IMS_PER_STEP", 8]
    assert _find(*options, num_processes=2) == []


def test_batch_norm_at_enough_images():
    options = [*SCRATCH, "MODEL.RESNETS.NORM"]
    assert _find(*options, "BN", "SOLVER.IMS_PER_BATCH", 8) == []
    assert _find(*options, "BN", "SOLVER.IMS_PER_BATCH", 16, num_processes=2) == []
    # SyncBN takes its statistics over all processes
    assert _find(*options, "SyncBN", "SOLVER.IMS_PER_BATCH", 16, num_processes=8) == []
    few = _find(*options, "SyncBN", "SOLVER.IMS_PER_BATCH", 4, num_processes=4)
    assert "statistics of 4 images" in _only(few, fatal=False)


def test_frozen_bn_needs_no_batch():
    assert _find("SOLVER.IMS_PER_BATCH", 1, config="mask_rcnn_R50_bn_frozen") == []


def test_batch_that_does_not_split():
    message = _only(_find("SOLVER.IMS_PER_BATCH", 12, num_processes=8))
    assert "SOLVER.IMS_PER_BATCH 12" in message
    assert "8 processes" in message
    assert _find("SOLVER.IMS_PER_BATCH", 12, num_processes=4) == []
    assert _find("SOLVER.IMS_PER_BATCH", 12, num_processes=8, training=False) == []


def test_check_config_refuses_with_one_line_each(caplog):
    cfg = model_zoo.get_config("mask_rcnn_R50_gn_all")
    cfg.merge_from_list(
        ["MODEL.WEIGHTS", "", "MODEL.FPN.OUT_CHANNELS", 100, "MODEL.ROI_BOX_HEAD.NORM", "BN"]
    )
    with caplog.at_level(logging.WARNING), pytest.raises(ConfigError) as error:
        check_config(cfg, num_processes=8)
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert "MODEL.FPN.NORM" in lines[0]
    assert "FREEZE_AT" in lines[1]
    assert "MODEL.ROI_BOX_HEAD.NORM is BN" in caplog.text
    assert "23.6" not in str(error.value)
    with pytest.raises(ConfigError) as error:
        check_config(cfg, training=False)
    assert len(str(error.value).splitlines()) == 1


def test_check_config_says_nothing_of_a_good_one(caplog):
    cfg = model_zoo.get_config("mask_rcnn_R50_gn_all")
    before = cfg.clone()
    with caplog.at_level(logging.DEBUG):
        assert check_config(cfg, num_processes=8) is None
    assert not caplog.records
    assert cfg == before
    assert gn_det.check_config is check_config


def test_vgg():
    vgg = [*SCRATCH, "MODEL.BACKBONE.NAME", "build_gn_vgg_fpn_backbone", "MODEL.VGG.NORM", "GN"]
    vgg += ["MODEL.VGG.OUT_FEATURES", ["vgg3", "vgg4", "vgg5", "pool5"]]
    vgg += ["MODEL.FPN.IN_FEATURES", ["vgg3", "vgg4", "vgg5", "pool5"]]
    assert _find(*vgg) == []
    message = _only(_find(*vgg, "MODEL.VGG.BASE_CHANNELS", 16)[:1])
    assert "MODEL.VGG.NORM is GN, and MODEL.GN.NUM_GROUPS 32 does not divide the 16 " in message
    assert "backbone.bottom_up.vgg1.0 (MODEL.VGG.BASE_CHANNELS)" in message
    assert len(_find(*vgg, "MODEL.VGG.BASE_CHANNELS", 48)) == 1  # 48; 96, 192 and 384 are divided
    assert "MODEL.VGG.NORM is 'XN'" in _only(_find(*vgg, "MODEL.VGG.NORM", "XN"))
    # the ResNet's keys are none of its own
    assert (
        _but_unread(*vgg, "MODEL.RESNETS.NORM", "XN", "MODEL.RESNETS.STEM_OUT_CHANNELS", 48) == []
    )
    frozen = _only(_find(*vgg, "MODEL.VGG.NORM", "FrozenBN"))
    assert "MODEL.VGG.NORM is FrozenBN" in frozen
