import pytest
import timm
import torch
from detectron2.layers import ShapeSpec
from timm.models.resnet import BasicBlock, ResNet

from gn_det import get_cfg
from gn_det.checkpoint import Checkpointer, WeightsError, convert, recognize
from gn_det.layers import GroupNorm
from gn_det.modeling import build_gn_resnet_backbone

STAGES = ["res2", "res3", "res4", "res5"]


def _backbone(depth, out_channels, norm="GN"):
    cfg = get_cfg()
    r = cfg.MODEL.RESNETS
    r.DEPTH, r.RES2_OUT_CHANNELS, r.NORM, r.STRIDE_IN_1X1 = depth, out_channels, norm, False
    r.OUT_FEATURES = STAGES
    return build_gn_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()


def _resnet18_gn():
    return ResNet(BasicBlock, (2, 2, 2, 2), norm_layer=lambda c, **_: GroupNorm(c, 32))


@pytest.mark.parametrize(
    ("make", "depth", "out_channels"),
    [
        pytest.param(lambda: timm.create_model("resnet50_gn"), 50, 256, id="resnet50_gn"),
        pytest.param(_resnet18_gn, 18, 64, id="resnet18"),
    ],
)
@torch.no_grad()
def test_features_are_timms(make, depth, out_channels, randomize, tmp_path):
    theirs = randomize(make())
    path = str(tmp_path / "timm.pth")
    torch.save(theirs.state_dict(), path)
    ours = _backbone(depth, out_channels)
    checkpointer = Checkpointer(ours)
    checkpointer.load(path)
    report = checkpointer.report
    assert (report.source, report.missing, report.unused) == ("timm", [], [])
    assert set(report.dropped) == {"fc.weight", "fc.bias"}

    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    features = ours(x)
    y = theirs.maxpool(theirs.act1(theirs.bn1(theirs.conv1(x))))
    for stage, layer in zip(STAGES, (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)):
        y = layer(y)
        torch.testing.assert_close(features[stage], y, rtol=1e-5, atol=1e-5)


def test_how_it_was_trained():
    with torch.device("meta"):
        model = timm.create_model("resnet50_gn")
    known = convert(model.state_dict()).known
    for name in ("mean", "std"):
        ours = getattr(known, f"pixel_{name}")
        assert ours == pytest.approx([255 * v for v in model.default_cfg[name]], abs=1e-9)
    assert (known.input_format, known.stride_in_1x1) == ("RGB", False)
    assert (known.depth, known.norm, known.num_groups) == (50, "GN", None)
    assert known.weight_standardization is False


@pytest.mark.parametrize("name", ["resnet50d", "seresnet50", "ecaresnet50t"])
def test_other_resnets_are_refused(name):
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    with pytest.raises(WeightsError, match="ResNet of another kind: it has '[a-z0-9.]+'"):
        convert(state)


def test_bn_is_left_to_torchvision():
    with torch.device("meta"):
        assert recognize(timm.create_model("resnet50").state_dict()) == "torchvision"


@pytest.mark.parametrize(
    ("name", "standardized"), [("R-50-GN-WS.pth", True), ("resnet50_gn.pth", False)]
)
def test_the_name_says_weight_standardization(name, standardized):
    with torch.device("meta"):
        state = timm.create_model("resnet50_gn").state_dict()
    assert convert(state, about=name).known.weight_standardization is standardized
