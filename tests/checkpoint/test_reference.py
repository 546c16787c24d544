import dataclasses

import pytest
import torch

from gn_det.checkpoint import Converted, WeightsError, convert
from gn_det.checkpoint.reference import backbone_alone, reference_backbone
from gn_det.modeling import StandardizedConv2d


@pytest.mark.parametrize("widths", [{}, {"inner": 128, "groups": 32}])
@pytest.mark.parametrize("name", ["resnet50_gn.pth", "resnet50_gn_ws.pth"])
def test_it_is_what_the_weights_describe(widths, name, mmdet_state, meta_tensor):
    converted = convert(mmdet_state(meta_tensor, 50, detector=False, **widths), about=name)
    model = reference_backbone(converted)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert shapes == {name: value.shape for name, value in converted.state.items()}
    assert all(value.is_meta for value in model.state_dict().values())
    assert isinstance(model.stem.conv1, StandardizedConv2d) is ("ws" in name)
    assert model.stem.conv1.norm.num_groups == 32
    other = dataclasses.replace(converted.known, num_groups=16)
    converted.known = other
    assert reference_backbone(converted).stem.conv1.norm.num_groups == 16


def test_bn():
    from torchvision.models import resnet34

    with torch.device("meta"):
        converted = convert(resnet34().state_dict())
    names = set(reference_backbone(converted).state_dict())
    assert names <= set(converted.state)
    assert "stem.conv1.norm.running_var" in names


def test_no_resnet():
    with pytest.raises(WeightsError, match="no whole ResNet"):
        reference_backbone(Converted("x", {"backbone.net.weight": torch.ones(1)}))


def test_backbone_alone():
    names = [
        "backbone.bottom_up.stem.conv1.norm.weight",
        "backbone.res2.0.conv1.weight",
        "roi_heads.res5.0.shortcut.weight",
        "linear.weight",
        "fpn_lateral2.weight",
        "roi_heads.box_head.conv1.weight",
    ]
    state = dict.fromkeys(names, torch.ones(1))
    alone, rest = backbone_alone(Converted("x", state, {names[0]: "conv1_gn_s", names[4]: "fpn"}))
    assert list(alone.state) == [
        "stem.conv1.norm.weight",
        "res2.0.conv1.weight",
        "res5.0.shortcut.weight",
        "linear.weight",
    ]
    assert alone.name_in_file("stem.conv1.norm.weight") == "conv1_gn_s"
    assert rest == ["fpn", "roi_heads.box_head.conv1.weight"]
