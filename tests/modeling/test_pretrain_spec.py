import dataclasses

import pytest

from gn_det import model_zoo
from gn_det.modeling import PretrainSpec, check_weights, pretrain_spec_from_cfg
from gn_det.modeling.pretrain_spec import PUBLISHED_SPECS, find_published_spec

R50_GN = PUBLISHED_SPECS["R-50-GN"]
VGG = ["MODEL.BACKBONE.NAME", "build_gn_vgg_backbone"]


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
