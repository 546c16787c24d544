import dataclasses

import pytest

from gn_det.modeling.pretrain_spec import PUBLISHED_SPECS, find_published_spec


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
def test_known(path, name):
    assert find_published_spec(path) == (name, PUBLISHED_SPECS[name])


@pytest.mark.parametrize("path", ["", "output/model_final.pth", "my-R-50-GN.pkl", "R-50.pkl"])
def test_unknown(path):
    assert find_published_spec(path) is None


def test_what_is_known_is_consistent():
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
