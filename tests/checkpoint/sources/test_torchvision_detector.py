"""Features and predictions of converted detectors are those of torchvision's own models."""

from functools import partial

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection import (
    FasterRCNN,
    KeypointRCNN,
    MaskRCNN,
    RetinaNet,
    fasterrcnn_mobilenet_v3_large_fpn,
    fasterrcnn_resnet50_fpn_v2,
    fcos_resnet50_fpn,
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
    retinanet_resnet50_fpn_v2,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from gn_det import get_cfg
from gn_det.checkpoint import Checkpointer, WeightsError, convert, recognize

CLASSES = 3  # without the background
GN = partial(nn.GroupNorm, 8)
LEVELS = ["p2", "p3", "p4", "p5", "p6"]
BOXES = torch.tensor([[3.0, 5.0, 40.0, 30.0], [10.0, 2.0, 90.0, 60.0], [0.0, 0.0, 20.0, 63.0]])
COCO_TO_FIRST = {0: 1, 11: 13, 79: 90}  # Detectron2's classes -> COCO's ids


def _backbone(norm, stages=(1, 2, 3, 4), extra=None, fpn_norm=None):
    layers = {f"layer{i}": str(n) for n, i in enumerate(stages)}
    channels = [32 * 2**i for i in stages]
    args = {} if extra is None else {"extra_blocks": extra}
    return BackboneWithFPN(
        resnet18(norm_layer=norm), layers, channels, 16, norm_layer=fpn_norm, **args
    )


def _anchors(sizes):
    return AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))


def _rcnn(version, kind=MaskRCNN, sizes=1, classes=CLASSES + 1):
    """Return a small R-CNN as torchvision's builders put one together."""
    norm = FrozenBatchNorm2d if version == 1 else nn.BatchNorm2d
    head_norm = None if version == 1 else nn.BatchNorm2d
    anchors = _anchors(tuple(tuple(8 * 2**i + 4 * j for j in range(sizes)) for i in range(5)))
    box_head = (
        TwoMLPHead(16 * 49, 12)
        if version == 1
        else FastRCNNConvFCHead((16, 7, 7), [16, 16], [12], norm_layer=head_norm)
    )
    masks = {
        "mask_head": MaskRCNNHeads(16, [16, 16], 1, norm_layer=head_norm),
        "mask_predictor": MaskRCNNPredictor(16, 16, classes),
    }
    keypoints = {
        "keypoint_head": KeypointRCNNHeads(16, (16, 16)),
        "keypoint_predictor": KeypointRCNNPredictor(16, 17),
    }
    parts = {MaskRCNN: masks, KeypointRCNN: keypoints, FasterRCNN: {}}[kind]

    return kind(
        _backbone(norm, fpn_norm=head_norm),
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(16, 3 * sizes, conv_depth=version),
        box_head=box_head,
        box_predictor=FastRCNNPredictor(12, classes),
        **parts,
    )


def _cfg(version, *options, norm="BN"):
    cfg = get_cfg()
    norm = "FrozenBN" if version == 1 else norm
    head = "" if version == 1 else norm
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu"),
            *("MODEL.META_ARCHITECTURE", "GeneralizedRCNN"),
            *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
            *("MODEL.BACKBONE.FREEZE_AT", 0),
            *("MODEL.RESNETS.DEPTH", 18),
            *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
            *("MODEL.RESNETS.STRIDE_IN_1X1", False),
            *("MODEL.RESNETS.NORM", norm),
            *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.FPN.OUT_CHANNELS", 16),
            *("MODEL.FPN.NORM", head),
            *("MODEL.RPN.IN_FEATURES", LEVELS),
            *("MODEL.RPN.CONV_DIMS", [-1] * version),
            *("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64], [128]]),
            *("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
            *("MODEL.ROI_HEADS.IN_FEATURES", LEVELS[:4]),
            *("MODEL.ROI_HEADS.NUM_CLASSES", CLASSES),
            *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
            *("MODEL.ROI_BOX_HEAD.NORM", head),
            *("MODEL.ROI_BOX_HEAD.NUM_CONV", 0 if version == 1 else 2),
            *("MODEL.ROI_BOX_HEAD.CONV_DIM", 16),
            *("MODEL.ROI_BOX_HEAD.NUM_FC", 3 - version),
            *("MODEL.ROI_BOX_HEAD.FC_DIM", 12),
            *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7),
            *("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlign"),
            *("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 2),
            *("MODEL.MASK_ON", True),
            *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
            *("MODEL.ROI_MASK_HEAD.NORM", head),
            *("MODEL.ROI_MASK_HEAD.NUM_CONV", 2),
            *("MODEL.ROI_MASK_HEAD.CONV_DIM", 16),
            *("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 14),
            *("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "ROIAlign"),
            *("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", 2),
            *("INPUT.FORMAT", "RGB"),
            *("MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53]),
            *("MODEL.PIXEL_STD", [58.395, 57.12, 57.375]),
            *options,
        ]
    )
    return cfg


def _loaded(theirs, cfg, tmp_path, name="model.pth"):
    path = str(tmp_path / name)
    torch.save(theirs.state_dict(), path)
    ours = build_model(cfg).eval()
    checkpointer = Checkpointer(ours, cfg=cfg)
    checkpointer.load(path)
    report = checkpointer.report
    assert (report.missing, report.unused, report.shape_mismatch) == ([], [], [])
    assert report.source == "torchvision detector"
    return ours


@pytest.fixture
def image():
    return torch.randint(256, (3, 64, 96), generator=torch.Generator().manual_seed(0)).float()


def _features(ours, theirs, image):
    """Return the features of both, from one image of 0 to 255 and its 0 to 1."""
    theirs_in = theirs.transform.normalize(image / 255)[None]
    ours_in = ours.preprocess_image([{"image": image}]).tensor
    torch.testing.assert_close(ours_in, theirs_in, rtol=1e-4, atol=1e-5)
    return ours.backbone(ours_in), theirs.backbone(theirs_in)


_close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("sizes", [1, 2])
@torch.no_grad()
def test_mask_rcnn(version, sizes, image, randomize, tmp_path):
    theirs = randomize(_rcnn(version, sizes=sizes))
    anchors = [[8 * 2**i + 4 * j for j in range(sizes)] for i in range(5)]
    cfg = _cfg(version, "MODEL.ANCHOR_GENERATOR.SIZES", anchors)
    ours = _loaded(theirs, cfg, tmp_path)
    features, expected = _features(ours, theirs, image)
    for level, feature in zip(LEVELS, expected.values()):
        _close(features[level], feature)

    logits, deltas = theirs.rpn.head(list(expected.values()))
    our_logits, our_deltas = ours.proposal_generator.rpn_head([features[level] for level in LEVELS])
    cells = list(ours.proposal_generator.anchor_generator.cell_anchors)
    for level in range(5):
        # torchvision rounds: each anchor of ours is the nearest of theirs
        known = theirs.rpn.anchor_generator.cell_anchors[level]
        order = torch.cdist(cells[level], known).argmin(1)
        assert sorted(order.tolist()) == list(range(3 * sizes))
        _close(our_logits[level], logits[level][:, order])
        _close(
            our_deltas[level].unflatten(1, (-1, 4)), deltas[level].unflatten(1, (-1, 4))[:, order]
        )

    roi, our_roi = theirs.roi_heads, ours.roi_heads
    pooled = roi.box_roi_pool(expected, [BOXES], [(64, 96)])
    our_pooled = our_roi.box_pooler([features[level] for level in LEVELS[:4]], [Boxes(BOXES)])
    _close(our_pooled, pooled)
    scores, boxes = roi.box_predictor(roi.box_head(pooled))
    our_scores, our_boxes = our_roi.box_predictor(our_roi.box_head(our_pooled))
    _close(our_scores, scores[:, [1, 2, 3, 0]])
    _close(our_boxes, boxes[:, 4:])
    # the class deltas of the second class give the same box
    decoded = roi.box_coder.decode_single(boxes[:, 8:12], BOXES)
    box2box = our_roi.box_predictor.box2box_transform
    _close(box2box.apply_deltas(our_boxes[:, 4:8], BOXES), decoded)

    masks = roi.mask_predictor(
        roi.mask_head(
            MultiScaleRoIAlign(["0", "1", "2", "3"], 14, 2)(expected, [BOXES], [(64, 96)])
        )
    )
    our_pooled = our_roi.mask_pooler([features[level] for level in LEVELS[:4]], [Boxes(BOXES)])
    _close(our_roi.mask_head.layers(our_pooled), masks[:, 1:])


@torch.no_grad()
def test_keypoint_rcnn(image, randomize, tmp_path):
    theirs = randomize(_rcnn(1, KeypointRCNN, classes=2))
    ours = _loaded(
        theirs,
        _cfg(
            1,
            *("MODEL.MASK_ON", False),
            *("MODEL.KEYPOINT_ON", True),
            *("MODEL.ROI_HEADS.NUM_CLASSES", 1),
            *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [16, 16]),
        ),
        tmp_path,
    )
    x = torch.randn(2, 16, 14, 14, generator=torch.Generator().manual_seed(1))
    expected = theirs.roi_heads.keypoint_predictor(theirs.roi_heads.keypoint_head(x))
    _close(ours.roi_heads.keypoint_head.layers(x), expected)


def _retinanet(norm, classes):
    anchors = AnchorGenerator(((8, 10, 13),) * 5, ((0.5, 1.0, 2.0),) * 5)
    backbone = _backbone(FrozenBatchNorm2d, (2, 3, 4), LastLevelP6P7(512, 16))
    head = RetinaNetHead(16, 9, classes, norm_layer=norm)
    return RetinaNet(backbone, classes, anchor_generator=anchors, head=head)


def _retinanet_cfg(norm, classes):
    return _cfg(
        1,
        *("MODEL.META_ARCHITECTURE", "RetinaNet"),
        *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"),
        *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
        *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
        *("MODEL.ANCHOR_GENERATOR.SIZES", [[8, 10, 13]] * 5),
        *("MODEL.RETINANET.NUM_CLASSES", classes),
        *("MODEL.RETINANET.NORM", norm),
    )


@pytest.mark.parametrize("norm", ["", "GN"])
@torch.no_grad()
def test_retinanet(norm, image, randomize, tmp_path, monkeypatch):
    # Detectron2's GN has 32 groups; both heads get 8 here
    monkeypatch.setattr(
        "detectron2.modeling.meta_arch.retinanet.get_norm", lambda n, c: GN(c) if n else None
    )
    theirs = randomize(_retinanet(GN if norm else None, CLASSES + 1))
    ours = _loaded(theirs, _retinanet_cfg(norm, CLASSES), tmp_path)
    features, expected = _features(ours, theirs, image)
    features = [features[level] for level in ("p3", "p4", "p5", "p6", "p7")]
    for feature, other in zip(features, expected.values()):
        _close(feature, other)
    order = torch.cdist(
        next(iter(ours.anchor_generator.cell_anchors)), theirs.anchor_generator.cell_anchors[0]
    ).argmin(1)
    assert sorted(order.tolist()) == list(range(9))
    outputs = theirs.head(list(expected.values()))
    logits, deltas = ours.head(features)
    sizes = [feature[0, 0].numel() * 9 for feature in features]
    logits = torch.cat(
        [x.unflatten(1, (9, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in logits], 1
    )
    deltas = torch.cat(
        [x.unflatten(1, (9, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in deltas], 1
    )
    rows = torch.arange(sum(sizes)).view(-1, 9)[:, order].flatten()
    _close(logits, outputs["cls_logits"][:, rows, 1:])
    _close(deltas, outputs["bbox_regression"][:, rows])


def test_cocos_ids_become_its_80_classes(randomize):
    state = randomize(_rcnn(1, classes=91)).state_dict()
    out = convert(state).state
    head = "roi_heads.box_predictor."
    assert len(out[f"{head}cls_score.bias"]) == 81
    assert out[f"{head}bbox_pred.weight"].shape == (320, 12)
    assert len(out["roi_heads.mask_head.predictor.bias"]) == 80
    for ours, theirs in COCO_TO_FIRST.items():
        for name in ("cls_score.weight", "cls_score.bias"):
            assert torch.equal(out[head + name][ours], state[head + name][theirs])
        name = f"{head}bbox_pred.weight"
        assert torch.equal(out[name][4 * ours + 3], state[name][4 * theirs + 3])
    assert torch.equal(out[f"{head}cls_score.bias"][80], state[f"{head}cls_score.bias"][0])

    state = randomize(_retinanet(None, 91)).state_dict()
    bias = convert(state).state["head.cls_score.bias"].view(3, 3, 80)  # size, ratio, class
    theirs = state["head.classification_head.cls_logits.bias"].view(3, 3, 91)  # ratio, size, class
    for ours, other in COCO_TO_FIRST.items():
        assert torch.equal(bias[2, 1, ours], theirs[1, 2, other])


@torch.no_grad()
def test_published_files_of_version_1_have_no_eps(image, randomize, tmp_path):
    theirs = randomize(_rcnn(1))
    for module in theirs.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0  # as torchvision sets it for these files
            module.running_var *= 1e-4  # so that it counts
    theirs.backbone.body.bn1.weight.zero_()  # features stay small
    for module in theirs.backbone.body.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight *= 0.01
    name = "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
    ours = _loaded(theirs, _cfg(1), tmp_path, name)
    features, expected = _features(ours, theirs, image)
    for level, feature in zip(LEVELS, expected.values()):
        torch.testing.assert_close(features[level], feature, rtol=1e-3, atol=1e-4)
    other = _loaded(theirs, _cfg(1), tmp_path, "model_25.pth")
    assert not torch.allclose(
        other.backbone(ours.preprocess_image([{"image": image}]).tensor)["p5"],
        expected["3"],
        rtol=1e-3,
        atol=1e-4,
    )


FULL = [
    maskrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
    maskrcnn_resnet50_fpn_v2,
    keypointrcnn_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
]


@pytest.mark.parametrize("make", FULL, ids=lambda make: make.__name__)
def test_no_name_of_torchvisions_builders_is_left(make):
    with torch.device("meta"):
        state = make(weights=None, weights_backbone=None).state_dict()
    assert recognize(state) == "torchvision-detector"
    converted = convert(state)
    assert not [n for n in converted.state if n.startswith(("backbone.", "rpn.", "body.", "fpn."))]
    assert not [n for n in converted.state if "_head.0." in n or "predictor.conv5" in n]
    assert set(state) <= set(converted.names.values())
    assert converted.known.depth == 50
    assert converted.known.input_format == "RGB"


OLD_NAMES = {
    "backbone.fpn.inner_blocks.1.0.weight": "backbone.fpn.inner_blocks.1.weight",
    "backbone.fpn.layer_blocks.3.0.bias": "backbone.fpn.layer_blocks.3.bias",
    "rpn.head.conv.0.0.weight": "rpn.head.conv.weight",
    "roi_heads.mask_head.1.0.weight": "roi_heads.mask_head.mask_fcn2.weight",
}


def test_names_from_before_torchvision_0_13():
    state = _rcnn(1).state_dict()
    old = dict(state)
    for new, before in OLD_NAMES.items():
        old[before] = old.pop(new)
    a, b = convert(state).state, convert(old).state
    assert set(a) == set(b)
    assert all(torch.equal(a[name], b[name]) for name in a)
    retina = _retinanet(None, 4).state_dict()
    old = dict(retina)
    for kind in ("classification", "regression"):
        for i in range(4):
            for end in ("weight", "bias"):
                new = f"head.{kind}_head.conv.{i}.0.{end}"
                old[f"head.{kind}_head.conv.{2 * i}.{end}"] = old.pop(new)
    a, b = convert(retina).state, convert(old).state
    assert set(a) == set(b)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_backbone_of_a_detector():
    state = _rcnn(1).backbone.state_dict()
    assert recognize(state) == "torchvision-detector"
    names = set(convert(state).state)
    assert {"stem.conv1.weight", "res5.1.conv2.norm.running_var", "fpn_lateral5.weight"} <= names
    body = {name: value for name, value in state.items() if name.startswith("body.")}
    for prefix in ("", "backbone."):
        alone = convert({f"{prefix}{name}": value for name, value in body.items()})
        assert set(alone.state) == {name for name in names if not name.startswith("fpn_")}


@pytest.mark.parametrize("version", [1, 2])
def test_heads_alone(version):
    """The order of their classes is torchvision's, too."""
    state = _rcnn(version).state_dict()
    heads = {name: value for name, value in state.items() if name.startswith("roi_heads.")}
    out = convert(heads)
    assert (out.source, out.known.depth, out.known.norm) == ("torchvision detector", None, None)
    name = "roi_heads.box_predictor.cls_score.bias"
    assert torch.equal(out.state[name], state[name].roll(-1))


def test_other_detectors():
    with torch.device("meta"):
        mobile = fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None)
        fcos = fcos_resnet50_fpn(weights=None, weights_backbone=None)
    with pytest.raises(WeightsError, match=r"no ResNet: it has 'backbone\.body\.0\.0\.weight'"):
        convert(mobile.state_dict())
    # its head is none of Detectron2's RetinaNet
    names = set(convert(fcos.state_dict()).state)
    assert {
        "stem.conv1.weight",
        "fpn_lateral3.weight",
        "head.regression_head.bbox_ctrness.bias",
    } <= names
    assert not [name for name in names if "subnet" in name]
