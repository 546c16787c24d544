import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec

from gn_det import get_cfg, model_zoo
from gn_det.checkpoint import WeightsError, convert
from gn_det.checkpoint.matching import match
from gn_det.checkpoint.sources import mmdetection
from gn_det.modeling import PretrainSpec, build_gn_resnet_backbone

STAGES = ["res2", "res3", "res4", "res5"]
X_WIDTHS = {"inner": 128, "groups": 32}


@pytest.mark.parametrize(
    ("config", "depth", "widths", "name"),
    [
        ("R50_gn_all", 50, {}, "mask_rcnn_r50_fpn_gn-all_2x_coco.pth"),
        ("R101_gn_all", 101, {}, "mask_rcnn_r101_fpn_gn-all_2x_coco.pth"),
        ("R50_gn_ws_all", 50, {}, "mask_rcnn_r50_fpn_gn_ws-all_2x_coco.pth"),
        ("R101_gn_ws_all", 101, {}, "mask_rcnn_r101_fpn_gn_ws-all_2x_coco.pth"),
        ("X50_gn_ws_all", 50, X_WIDTHS, "mask_rcnn_x50_32x4d_fpn_gn_ws-all_2x_coco.pth"),
        ("X101_gn_ws_all", 101, X_WIDTHS, "mask_rcnn_x101_32x4d_fpn_gn_ws-all_2x_coco.pth"),
    ],
)
@pytest.mark.parametrize("detector", [True, False])
def test_every_parameter_is_filled(
    config, depth, widths, name, detector, mmdet_state, meta_tensor, meta_model
):
    state = mmdet_state(meta_tensor, depth, detector, **widths)
    converted = convert({"meta": {}, "state_dict": state}, about=name)
    model = meta_model(model_zoo.get_config(f"mask_rcnn_{config}.yaml"))
    found, _, report = match(converted, model)
    wanted = [n for n in model.state_dict() if detector or ".bottom_up." in n]
    assert list(found) == wanted
    assert (report.unused, report.shape_mismatch, report.dropped) == ([], [], {})
    assert not [n for n in report.missing if ".bottom_up." in n]
    assert converted.source == "mmdetection"
    assert converted.known.weight_standardization is ("ws" in config)
    assert converted.known.depth == depth


def test_values_of_the_heads(mmdet_state, random_array):
    state = mmdet_state(random_array, stem=8, inner=8, out=8, dim=8, fc=8, classes=3)
    out = convert({"state_dict": state}).state
    pairs = {
        "fpn_lateral2.weight": "neck.lateral_convs.0.conv.weight",
        "fpn_lateral5.norm.bias": "neck.lateral_convs.3.gn.bias",
        "fpn_output4.norm.weight": "neck.fpn_convs.2.gn.weight",
        "proposal_generator.rpn_head.conv.bias": "rpn_head.rpn_conv.bias",
        "proposal_generator.rpn_head.objectness_logits.weight": "rpn_head.rpn_cls.weight",
        "proposal_generator.rpn_head.anchor_deltas.weight": "rpn_head.rpn_reg.weight",
        "roi_heads.box_head.conv1.weight": "roi_head.bbox_head.shared_convs.0.conv.weight",
        "roi_heads.box_head.conv4.norm.weight": "roi_head.bbox_head.shared_convs.3.gn.weight",
        "roi_heads.box_head.fc1.weight": "roi_head.bbox_head.shared_fcs.0.weight",
        # the background is the last class of both
        "roi_heads.box_predictor.cls_score.weight": "roi_head.bbox_head.fc_cls.weight",
        "roi_heads.box_predictor.bbox_pred.bias": "roi_head.bbox_head.fc_reg.bias",
        "roi_heads.mask_head.mask_fcn2.norm.bias": "roi_head.mask_head.convs.1.gn.bias",
        "roi_heads.mask_head.deconv.weight": "roi_head.mask_head.upsample.weight",
        "roi_heads.mask_head.predictor.bias": "roi_head.mask_head.conv_logits.bias",
    }
    for ours, theirs in pairs.items():
        assert torch.equal(out[ours], torch.from_numpy(state[theirs])), ours
    assert len(out) == len(state)


def _standardize(w):
    """ConvWS2d of mmcv: the filter's mean and (unbiased) standard deviation."""
    flat = w.flatten(1)
    mean, std = flat.mean(1), flat.std(1)
    return (w - mean.view(-1, 1, 1, 1)) / (std.view(-1, 1, 1, 1) + 1e-5)


def _reference(state, x, groups, standardized):
    """mmdetection's ResNet of style "pytorch" with GN (32 groups), by its definition."""

    def conv_gn(x, conv, norm, stride=1, padding=0, groups=1):
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, _standardize(weight) if standardized else weight, None, stride, padding,
                     groups=groups)  # fmt: skip
        return F.group_norm(x, 32, state[f"{norm}.weight"], state[f"{norm}.bias"], 1e-5)

    x = F.max_pool2d(F.relu(conv_gn(x, "conv1", "gn1", 2, 3)), 3, 2, 1)
    features = []
    for layer, count in enumerate((3, 4, 6, 3), start=1):
        for block in range(count):
            p = f"layer{layer}.{block}."
            stride = 2 if block == 0 and layer > 1 else 1
            y = F.relu(conv_gn(x, f"{p}conv1", f"{p}gn1"))
            y = F.relu(conv_gn(y, f"{p}conv2", f"{p}gn2", stride, 1, groups))
            y = conv_gn(y, f"{p}conv3", f"{p}gn3")
            if block == 0:
                x = conv_gn(x, f"{p}downsample.0", f"{p}downsample.1", stride)
            x = F.relu(x + y)
        features.append(x)
    return features


@pytest.mark.parametrize(
    ("file_name", "groups", "inner"),
    [
        ("resnet50_gn_thangvubk-ad1730dd.pth", 1, 32),
        ("resnet50_gn_ws-15beedd8.pth", 1, 32),
        ("resnext50_32x4d_gn_ws-0d87ac85.pth", 32, 64),
    ],
)
@torch.no_grad()
def test_features_are_those_of_the_definition(file_name, groups, inner, mmdet_state):
    rng = torch.Generator().manual_seed(0)

    def make(shape):
        if len(shape) == 1:
            return torch.rand(shape, generator=rng)
        return torch.randn(shape, generator=rng) / (shape[1] * shape[2] * shape[3]) ** 0.5

    widths = {"stem": 32, "inner": inner, "groups": groups, "out": 64}
    state = mmdet_state(make, 50, detector=False, **widths)
    converted = convert(state, about=file_name)
    standardized = "ws" in file_name
    assert converted.known.weight_standardization is standardized
    cfg = get_cfg()
    r = cfg.MODEL.RESNETS
    r.DEPTH, r.NORM, r.STRIDE_IN_1X1, r.OUT_FEATURES = 50, "GN", False, STAGES
    r.STEM_OUT_CHANNELS, r.RES2_OUT_CHANNELS = 32, 64
    r.NUM_GROUPS, r.WIDTH_PER_GROUP = groups, inner // groups
    cfg.MODEL.GN.WEIGHT_STANDARDIZATION = standardized
    ours = build_gn_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    found, _, report = match(converted, ours)
    assert (report.missing, report.unused) == ([], [])
    ours.load_state_dict(found)
    x = torch.randn(1, 3, 64, 96, generator=rng)
    features = ours(x)
    for stage, expected in zip(STAGES, _reference(state, x, groups, standardized)):
        torch.testing.assert_close(features[stage], expected, rtol=1e-5, atol=1e-5)


BGR = ((103.530, 116.280, 123.675), (1.0, 1.0, 1.0), "BGR")
RGB = ((123.675, 116.280, 103.530), (58.395, 57.120, 57.375), "RGB")


@pytest.mark.parametrize(
    ("about", "standardized", "pixels"),
    [
        ("resnet50_gn_thangvubk-ad1730dd.pth", False, BGR),
        ("resnext101_32x4d_gn_ws-34ac1a9e.pth", True, RGB),
        ("mine.pth", None, (None, None, None)),
    ],
)
def test_the_name_tells_plain_from_standardized(
    about, standardized, pixels, mmdet_state, meta_tensor
):
    known = convert(mmdet_state(meta_tensor, detector=False), about=about).known
    assert known == PretrainSpec(50, "GN", False, *pixels, 32, standardized, "ResNet")


CONFIG = """
conv_cfg = dict(type='ConvWS')
norm_cfg = dict(type='GN', num_groups=16, requires_grad=True)
model = dict(backbone=dict(type='ResNet', style='{style}'))
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb={rgb})
"""


def test_the_config_in_the_file_decides(mmdet_state, meta_tensor):
    state = mmdet_state(meta_tensor)
    meta = {"config": CONFIG.format(style="pytorch", rgb=True), "epoch": 24}
    known = convert({"meta": meta, "state_dict": state}, about="resnet50_gn.pth").known
    assert known == PretrainSpec(50, "GN", False, *RGB, 16, True, "ResNet")
    plain = CONFIG.replace("ConvWS", "Conv2d").format(style="caffe", rgb=False)
    known = convert({"meta": {"config": plain}, "state_dict": state}).known
    assert known == PretrainSpec(50, "GN", True, *RGB[:2], "BGR", 16, False, "ResNet")


def test_version_1_is_refused(meta_tensor, mmdet_state):
    state = mmdet_state(meta_tensor)
    state["roi_head.bbox_head.fc_reg.weight"] = meta_tensor((4 * 81, 1024))
    with pytest.raises(WeightsError, match=r"upgrade_model_version\.py"):
        convert({"state_dict": state})
    old = {name.replace("roi_head.", ""): value for name, value in state.items()}
    with pytest.raises(WeightsError, match="mmdetection 1"):
        convert({"state_dict": old})


def test_unknown_heads_are_left_over_and_unknown_layers_refused(mmdet_state, meta_tensor):
    state = mmdet_state(meta_tensor)
    state["roi_head.semantic_head.conv.weight"] = meta_tensor((1,))
    assert "roi_head.semantic_head.conv.weight" in mmdetection.convert(state).state
    state["backbone.layer1.0.context_block.weight"] = meta_tensor((1,))
    with pytest.raises(WeightsError, match="layer1.0.context_block.weight"):
        mmdetection.convert(state)
