import dataclasses

import pytest

from gn_det import model_zoo
from gn_det.modeling import PretrainSpec, check_weights
from gn_det.modeling.pretrain_spec import PUBLISHED_SPECS

R50_GN = PUBLISHED_SPECS["R-50-GN"]


def _messages(known, *options, fatal=True):
    cfg = model_zoo.get_config("mask_rcnn_R50_gn_all.yaml")
    cfg.merge_from_list(list(options))
    problems = check_weights(cfg, known, "w.pkl")
    assert {p.fatal for p in problems} <= {fatal}
    assert all(p.message.startswith("w.pkl ") and "\n" not in p.message for p in problems)
    return [p.message for p in problems]


def test_what_fits():
    assert _messages(R50_GN) == []


def test_what_is_not_known_is_not_checked():
    assert _messages(PretrainSpec()) == []
    for name in ("depth", "norm", "stride_in_1x1", "pixel_std", "input_format", "num_groups"):
        assert _messages(dataclasses.replace(R50_GN, **{name: None})) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": 101}, ["is a ResNet-101", "DEPTH is 50"]),
        ({"norm": "BN"}, ["trained with BN", "NORM is 'GN'"]),
        ({"norm": "FrozenBN"}, ["trained with BN", "NORM is 'GN'"]),
        ({"num_groups": 16}, ["16 groups", "NUM_GROUPS is 32"]),
        ({"stride_in_1x1": True}, ["1x1", "Set it to True"]),
        ({"input_format": "RGB"}, ["RGB images", "INPUT.FORMAT is BGR"]),
        ({"pixel_mean": (123.675, 116.28, 103.53)}, ["PIXEL_MEAN [123.675"]),
        ({"pixel_std": (58.395, 57.12, 57.375)}, ["PIXEL_STD [58.395"]),
        ({"weight_standardization": True}, ["with Weight Stand", "is False. Set it to True"]),
    ],
)
def test_another_network(changes, words):
    (message,) = _messages(dataclasses.replace(R50_GN, **changes))
    for word in words:
        assert word in message


def test_grey_images():
    (message,) = _messages(R50_GN, "INPUT.FORMAT", "L")
    assert message.endswith(
        "was trained on BGR images, but INPUT.FORMAT is L. Leave it as the weights need it: grey "
        "images are read as equal channels."
    )


@pytest.mark.parametrize("mean", [[], [103.53]])
def test_other_channels(mean):
    (message,) = _messages(R50_GN, "MODEL.PIXEL_MEAN", mean)
    assert message.endswith(f"MODEL.PIXEL_MEAN [103.53, 116.28, 123.675], but it is {mean}.")


def test_standardized_model_of_plain_weights():
    (message,) = _messages(R50_GN, "MODEL.GN.WEIGHT_STANDARDIZATION", True)
    assert "without Weight Standardization" in message
    assert "is True. Set it to False" in message


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_folded_bn_has_no_statistics(norm):
    folded = dataclasses.replace(R50_GN, norm="FrozenBN", num_groups=None)
    (message,) = _messages(folded, "MODEL.RESNETS.NORM", norm)
    assert "folded" in message
    assert _messages(folded, "MODEL.RESNETS.NORM", "FrozenBN") == []


def test_detectrons_mean_in_fine_tuning_is_a_warning():
    known = dataclasses.replace(R50_GN, pixel_mean=(102.9801, 115.9465, 122.7717))
    (message,) = _messages(known, fatal=False)
    assert "MODEL.PIXEL_MEAN [102.9801" in message


def test_another_window_is_warned_of():
    known = PretrainSpec(window=(0, 4095))
    (message,) = _messages(known, "INPUT.WINDOW", [0, 65535], fatal=False)
    assert "trained with INPUT.WINDOW [0, 4095], but it is [0, 65535]" in message
    assert len(_messages(known, fatal=False)) == 1  # images of 8 bits now
    assert _messages(known, "INPUT.WINDOW", [0, 4095]) == []
    # weights of 8-bit images, such as ImageNet's
    assert _messages(PretrainSpec(), "INPUT.WINDOW", [0, 4095]) == []


def test_images_are_checked_for_other_networks_too(tiny_cfg):
    cfg = tiny_cfg()
    cfg.MODEL.BACKBONE.NAME = "not_registered"
    known = PretrainSpec(depth=18, pixel_mean=(1.0, 2.0, 3.0), pixel_std=(1.0, 1.0, 1.0))
    assert [problem.fatal for problem in check_weights(cfg, known)] == [True]


def test_stride_of_basic_blocks_is_no_matter():
    known = dataclasses.replace(R50_GN, depth=18, stride_in_1x1=True)
    options = ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
    assert _messages(known, *options) == []


def test_how_it_is_called():
    cfg = model_zoo.get_config("mask_rcnn_R50_gn_all.yaml")
    (problem,) = check_weights(cfg, PretrainSpec(depth=18))
    assert problem.message.startswith(f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} is a ResNet-18")


VGG = ["MODEL.BACKBONE.NAME", "build_gn_vgg_backbone"]


@pytest.mark.parametrize(
    ("known", "options", "words"),
    [
        (R50_GN, VGG, ["is a ResNet, but MODEL.BACKBONE.NAME build_gn_vgg_backbone is a VGG"]),
        (PretrainSpec(network="VGG"), [], ["is a VGG, but MODEL.BACKBONE.NAME", "is a ResNet"]),
        (PretrainSpec(network="VGG", depth=13), VGG, ["is a VGG-13", "MODEL.VGG.DEPTH is 16"]),
        (PretrainSpec(norm="BN"), VGG, ["trained with BN, but MODEL.VGG.NORM is ''"]),
        (
            PretrainSpec(norm=""),
            [*VGG, "MODEL.VGG.NORM", "GN"],
            ["trained without a norm, but MODEL.VGG.NORM is 'GN'. Set MODEL.VGG.NORM ''"],
        ),
        (PretrainSpec(norm="LN"), [], ["trained with LN", "Set MODEL.RESNETS.NORM LN"]),
        (
            PretrainSpec(norm="GN", channels_per_group=16),
            [],
            ["16 channels per group, but MODEL.GN.CHANNELS_PER_GROUP is 0"],
        ),
    ],
)
def test_networks_norms_and_groups(known, options, words):
    (message,) = _messages(known, *options)
    for word in words:
        assert word in message
