import pytest
import torch

from gn_det.checkpoint import WeightsError
from gn_det.checkpoint.sources.resnet_names import is_resnet, rename_resnet


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("gn1.bias", "stem.conv1.norm.bias"),
        ("layer1.0.conv1.weight", "res2.0.conv1.weight"),
        ("layer3.22.bn3.running_var", "res4.22.conv3.norm.running_var"),
        ("layer4.0.downsample.0.weight", "res5.0.shortcut.weight"),
        ("layer4.0.downsample.1.weight", "res5.0.shortcut.norm.weight"),
        ("fc.bias", "linear.bias"),
    ],
)
def test_names(theirs, ours):
    assert rename_resnet(theirs) == ours


@pytest.mark.parametrize("name", ["conv1.0.weight", "layer1.0.se.fc1.weight", "conv1.bias"])
def test_other_layers(name):
    with pytest.raises(WeightsError, match=f"it has '{name}'"):
        rename_resnet(name)


def test_is_resnet():
    names = ["layer1.0.conv1.weight", "layer4.0.conv1.weight"]
    assert is_resnet(dict.fromkeys(names, torch.ones(1)))
    assert not is_resnet({names[0]: torch.ones(1)})
