import pytest
import torch
from detectron2.layers import ShapeSpec

from gn_det.config import ConfigError, UnknownKeyError
from gn_det.modeling import build_gn_resnet_backbone
from gn_det.modeling.from_keys import backbone_from_keys, cfg_from_keys, res5_from_keys

R18 = {"depth": 18, "res2_out_channels": 64, "norm": "GN", "out_features": ["res3", "res5"]}


def test_backbone(assert_same_state):
    gn = {"num_groups": 16}
    torch.manual_seed(0)
    ours = backbone_from_keys("build_gn_resnet_backbone", 3, 0, R18, gn)
    cfg = cfg_from_keys(RESNETS=R18, GN=gn, BACKBONE={"freeze_at": 0})
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.GN.NUM_GROUPS) == (18, 16)
    torch.manual_seed(0)
    assert_same_state(ours, build_gn_resnet_backbone(cfg, ShapeSpec(channels=3)))
    assert ours.stem.conv1.norm.num_groups == 16
    assert list(ours.output_shape()) == ["res3", "res5"]


def test_fpn():
    r18 = {**R18, "out_features": ["res4", "res5"]}
    fpn = {"in_features": ["res4", "res5"], "out_channels": 32}
    backbone = backbone_from_keys("build_gn_resnet_fpn_backbone", 3, 0, r18, {}, fpn)
    channels = {name: shape.channels for name, shape in backbone.output_shape().items()}
    assert channels == {"p4": 32, "p5": 32, "p6": 32}


def test_res5():
    res5 = res5_from_keys({**R18}, {"channels_per_group": 8})
    assert res5(torch.zeros(2, 256, 4, 4)).shape == (2, 512, 2, 2)
    assert res5[1].conv2.norm.num_groups == 64


def test_wrong_keys_of_the_backbone():
    args = {"name": "build_gn_resnet_backbone", "in_channels": 3, "freeze_at": 0, "gn": {}}
    with pytest.raises(UnknownKeyError, match=r"MODEL\.RESNETS\.DEPT\..*MODEL\.RESNETS\.DEPTH"):
        backbone_from_keys(**args, resnets={"dept": 18})
    with pytest.raises(ConfigError, match=r"MODEL\.RESNETS\.DEPTH takes a whole number"):
        backbone_from_keys(**args, resnets={"depth": "many"})
