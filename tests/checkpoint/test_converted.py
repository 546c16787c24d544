import pytest

from gn_det.checkpoint import Converted, WeightsError
from gn_det.checkpoint.converted import (
    metadata_from_dict,
    metadata_to_dict,
    resnet_norm,
)
from gn_det.modeling import PretrainSpec
from gn_det.modeling.pretrain_spec import PUBLISHED_SPECS


def test_norm():
    assert resnet_norm(["stem.conv1.weight"]) is None
    assert resnet_norm(["stem.conv1.norm.weight"]) == "GN"
    assert resnet_norm(["res2.0.conv1.norm.weight", "res2.0.conv1.norm.running_mean"]) == "BN"
    assert resnet_norm(["roi_heads.box_head.conv1.norm.weight"]) is None


@pytest.mark.parametrize("known", [PretrainSpec(), *PUBLISHED_SPECS.values()])
def test_metadata_round_trip(known):
    values = metadata_to_dict(known, "timm")
    assert values["source"] == "timm"
    assert not any(isinstance(value, tuple) for value in values.values())
    assert metadata_from_dict(values) == known
    assert metadata_from_dict({**values, "a later key": 1}) == known


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("depth", "50"),
        ("depth", True),
        ("stride_in_1x1", 1),
        ("pixel_mean", [1.0, 2.0]),
        ("pixel_std", ["1", "2", "3"]),
        ("input_format", b"RGB"),
    ],
)
def test_metadata_of_another_kind(key, value):
    with pytest.raises(WeightsError, match=f"'gn_det' has the {key} "):
        metadata_from_dict({key: value})


def test_metadata_is_no_dict():
    with pytest.raises(WeightsError, match="'gn_det' is a list, not a dict"):
        metadata_from_dict([])


def test_name_in_file():
    converted = Converted("x", {}, {"a": "b"})
    assert (converted.name_in_file("a"), converted.name_in_file("c")) == ("b", "c")
