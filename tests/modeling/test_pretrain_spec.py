import dataclasses

import pytest

from gn_det import model_zoo
from gn_det.modeling import PretrainSpec, check_weights, pretrain_spec_from_cfg
from gn_det.modeling.pretrain_spec import PUBLISHED_SPECS, find_published_spec, resnet_depth

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


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], PretrainSpec(50, "GN", False, num_groups=32)),
        (["MODEL.GN.CHANNELS_PER_GROUP", 8], PretrainSpec(50, "GN", False, channels_per_group=8)),
        (["MODEL.RESNETS.NORM", "LN"], PretrainSpec(50, "LN", False, num_groups=1)),
        (["MODEL.RESNETS.NORM", "IN"], PretrainSpec(50, "IN", False, channels_per_group=1)),
        (["MODEL.RESNETS.NORM", "SyncBN"], PretrainSpec(50, "BN", False)),
        (["MODEL.RESNETS.NORM", "FrozenBN"], PretrainSpec(50, "BN", False)),
        ([*VGG, "MODEL.VGG.NORM", "GN"], PretrainSpec(16, "GN", network="VGG", num_groups=32)),
        (VGG, PretrainSpec(16, "", network="VGG")),
    ],
)
def test_what_a_training_makes(options, expected):
    cfg = model_zoo.get_config("mask_rcnn_R50_gn_all.yaml")
    cfg.merge_from_list(list(options))
    known = pretrain_spec_from_cfg(cfg)
    assert known == dataclasses.replace(
        expected,
        network=expected.network or "ResNet",
        pixel_mean=(103.53, 116.28, 123.675),
        pixel_std=(1.0, 1.0, 1.0),
        input_format="BGR",
        weight_standardization=False,
    )
    assert check_weights(cfg, known) == []


def test_of_an_unknown_backbone_the_preprocessing_alone():
    cfg = model_zoo.get_config("mask_rcnn_R50_gn_all.yaml")
    cfg.MODEL.BACKBONE.NAME = "build_my_backbone"
    assert pretrain_spec_from_cfg(cfg) == PretrainSpec(
        pixel_mean=(103.53, 116.28, 123.675), pixel_std=(1.0, 1.0, 1.0), input_format="BGR"
    )
    assert check_weights(cfg, R50_GN) == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("catalog://ImageNetPretrained/FAIR/R-50-GN", "R-50-GN"),
        (
            "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/47261647/R-50-GN.pkl",
            "R-50-GN",
        ),
        ("/weights/R-101-GN.pkl", "R-101-GN"),
        ("R-50-GN.pkl", "R-50-GN"),
        ("detectron2://ImageNetPretrained/MSRA/R-50.pkl", "MSRA/R-50"),
        ("detectron2://ImageNetPretrained/MSRA/R-101.pkl", "MSRA/R-101"),
        ("detectron2://ImageNetPretrained/torchvision/R-50.pkl", "torchvision/R-50"),
        ("detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl", "FAIR/X-101-32x8d"),
    ],
)
def test_published(path, name):
    assert find_published_spec(path) == (name, PUBLISHED_SPECS[name])


@pytest.mark.parametrize("path", ["", "output/model_final.pth", "my-R-50-GN.pkl", "R-50.pkl"])
def test_not_published(path):
    assert find_published_spec(path) is None


def test_published_specs_are_consistent():
    mean = {"BGR": (103.530, 116.280, 123.675), "RGB": (123.675, 116.280, 103.530)}
    std = {"BGR": (57.375, 57.120, 58.395), "RGB": (58.395, 57.120, 57.375)}
    for name, weights in PUBLISHED_SPECS.items():
        assert str(weights.depth) in name
        assert weights.norm == ("GN" if name.endswith("GN") else "BN")
        assert weights.pixel_mean == mean[weights.input_format]
        assert weights.pixel_std in ((1.0, 1.0, 1.0), std[weights.input_format])
        # only the first ResNets, by MSRA, have the stride on the 1x1
        assert weights.stride_in_1x1 == name.startswith("MSRA/")
    with pytest.raises(dataclasses.FrozenInstanceError):
        PUBLISHED_SPECS["R-50-GN"].depth = 18


def _names(blocks, convs):
    return [
        f"backbone.res{stage + 2}.{block}.conv{conv + 1}.weight"
        for stage, count in enumerate(blocks)
        for block in range(count)
        for conv in range(convs)
    ]


@pytest.mark.parametrize(
    ("blocks", "convs", "depth"),
    [
        ((2, 2, 2, 2), 2, 18),
        ((3, 4, 6, 3), 2, 34),
        ((3, 4, 6, 3), 3, 50),
        ((3, 4, 23, 3), 3, 101),
        ((3, 8, 36, 3), 3, 152),
        ((3, 4, 6), 3, None),
        ((), 3, None),
    ],
)
def test_depth(blocks, convs, depth):
    assert resnet_depth(_names(blocks, convs)) == depth


@pytest.mark.parametrize(
    ("blocks", "convs", "depth"),
    [((3, 4, 6), 3, 50), ((3, 4), 3, None), ((3, 4), 2, 34), ((2,), 2, 18), ((2, 3), 2, None)],
)
def test_depth_without_the_last_stages(blocks, convs, depth):
    assert resnet_depth(_names(blocks, convs), whole=False) == depth
