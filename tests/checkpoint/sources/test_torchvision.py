from functools import partial

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn
from torchvision.models import resnet18, resnet50

from gn_det import get_cfg
from gn_det.checkpoint import Checkpointer, convert
from gn_det.checkpoint.sources import torchvision
from gn_det.modeling import build_gn_resnet_backbone

STAGES = ["res2", "res3", "res4", "res5"]


@pytest.mark.parametrize(
    ("make", "norm_layer", "norm"),
    [
        pytest.param(resnet50, partial(nn.GroupNorm, 32), "GN", id="resnet50-GN"),
        pytest.param(resnet50, nn.BatchNorm2d, "FrozenBN", id="resnet50-BN"),
        pytest.param(resnet18, nn.BatchNorm2d, "BN", id="resnet18-BN"),
    ],
)
@torch.no_grad()
def test_features_are_torchvisions(make, norm_layer, norm, randomize, tmp_path):
    theirs = randomize(make(norm_layer=norm_layer))
    path = str(tmp_path / "torchvision.pth")
    torch.save(theirs.state_dict(), path)
    cfg = get_cfg()
    r = cfg.MODEL.RESNETS
    r.DEPTH, r.RES2_OUT_CHANNELS = (50, 256) if make is resnet50 else (18, 64)
    r.NORM, r.STRIDE_IN_1X1, r.OUT_FEATURES = norm, False, STAGES
    ours = build_gn_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    checkpointer = Checkpointer(ours)
    checkpointer.load(path)
    assert (checkpointer.report.missing, checkpointer.report.unused) == ([], [])

    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    features = ours(x)
    y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    for stage, layer in zip(STAGES, (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)):
        y = layer(y)
        torch.testing.assert_close(features[stage], y, rtol=1e-5, atol=1e-5)


def test_statistics_are_converted():
    state = resnet18().state_dict()
    out = torchvision.convert(state)
    for ours, theirs in {
        "stem.conv1.norm.running_var": "bn1.running_var",
        "res5.1.conv2.norm.running_mean": "layer4.1.bn2.running_mean",
        "res3.0.shortcut.norm.running_var": "layer2.0.downsample.1.running_var",
    }.items():
        assert out.state[ours] is state[theirs]
    assert len(out.state) == len(state)


def test_how_it_was_trained():
    with torch.device("meta"):
        known = convert(resnet50().state_dict()).known
    assert (known.depth, known.norm, known.stride_in_1x1) == (50, "BN", False)
    assert (known.input_format, known.pixel_mean) == ("RGB", (123.675, 116.280, 103.530))
