import pytest
import timm
import torch

from gn_det.checkpoint import WeightsError, convert, recognize


@pytest.mark.parametrize("name", ["resnetv2_50d_gn", "resnetv2_50x1_bit"])
def test_timms_are_refused(name):
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    with pytest.raises(WeightsError, match="pre-activation ResNet.* gn_det has no backbone"):
        convert(state)


@pytest.mark.parametrize(
    "name",
    [
        "resnet/block1/unit01/a/standardized_conv2d/kernel",
        "block1/unit01/a/standardized_conv2d/kernel",
        "body.block1.unit01.gn1.weight",
    ],
)
def test_bits_own_are_recognized(name):
    assert recognize({name: torch.zeros(1)}) == "preactivation"
