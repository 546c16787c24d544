"""A lazy model is the YAML's model: the same parts, weights of one seed, losses and detections."""

from functools import partial

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf

from gn_det import model_zoo
from gn_det.config import ConfigError
from gn_det.modeling.lazy import lazy_model


def _plain(value):
    """Return a value that can be compared, whatever class carries it."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, partial):
        return value.func, value.args, value.keywords
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if type(value).__module__.startswith("detectron2.") and hasattr(value, "__dict__"):
        return type(value), _plain(vars(value))
    return value


def _describe(module):
    skipped = {"_parameters", "_buffers", "_modules"}
    return type(module), {k: _plain(v) for k, v in vars(module).items() if k not in skipped}


def _assert_same_parts(ours, theirs):
    assert [n for n, _ in ours.named_modules()] == [n for n, _ in theirs.named_modules()]
    for (name, a), b in zip(ours.named_modules(), theirs.modules()):
        for (kind, mine), (other, yours) in [(_describe(a), _describe(b))]:
            assert kind is other, name
            # a function that Detectron2 makes anew for each model; no config here uses it
            mine.pop("get_fed_loss_cls_weights", None), yours.pop("get_fed_loss_cls_weights", None)
            for key in mine.keys() | yours.keys():
                assert key in mine, (name, key)
                assert str(mine[key]) == str(yours[key]), (name, key)


@pytest.mark.parametrize(
    "name",
    [
        "mask_rcnn_R50_gn_all",
        "mask_rcnn_R50_bn_frozen",
        "mask_rcnn_R50_C4_gn",
        "mask_rcnn_R50_C4_bn_frozen",
        "mask_rcnn_X50_gn_ws_all",
        "scratch_mask_rcnn_R50_syncbn",
        "mask_rcnn_VGG16_gn_all",
        "photo_digits_mask_rcnn_R18_gn_all",
    ],
)
def test_same_parts(name, assert_same_state):
    cfg = model_zoo.get_config(name)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        ours, theirs = instantiate(lazy_model(cfg)), build_model(cfg)
    assert_same_state(ours, theirs)
    _assert_same_parts(ours, theirs)


OTHER = [
    *("MODEL.RPN.CONV_DIMS", [32, 32], "MODEL.RPN.LOSS_WEIGHT", 0.5),
    *("MODEL.RPN.BBOX_REG_LOSS_WEIGHT", 3.0, "MODEL.RPN.SMOOTH_L1_BETA", 0.2),
    *("MODEL.RPN.BBOX_REG_WEIGHTS", (2.0, 2.0, 3.0, 3.0), "MODEL.RPN.BOUNDARY_THRESH", 3),
    *("MODEL.RPN.NMS_THRESH", 0.6, "MODEL.RPN.POSITIVE_FRACTION", 0.4),
    *("MODEL.RPN.IOU_THRESHOLDS", [0.2, 0.6], "MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 2),
    *("MODEL.RPN.BBOX_REG_LOSS_TYPE", "giou", "MODEL.ANCHOR_GENERATOR.OFFSET", 0.5),
    *("MODEL.ROI_HEADS.POSITIVE_FRACTION", 0.3, "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", False),
    *("MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.4], "MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.3),
    *("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True, "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", 0.3),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True, "MODEL.ROI_BOX_HEAD.NUM_FC", 0),
    *("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", 2.0, "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True),
    *("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (5.0, 5.0, 4.0, 4.0), "VIS_PERIOD", 7),
    *(
        "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE",
        "giou",
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE",
        "ROIAlign",
    ),
    *("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 2, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 5),
    *("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True, "MODEL.ROI_MASK_HEAD.NUM_CONV", 2),
    *("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", 2, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 9),
    *("MODEL.GN.NUM_GROUPS", 16, "MODEL.GN.EPS", 1e-3, "MODEL.GN.ZERO_INIT_RESIDUAL", True),
    *("MODEL.FPN.FUSE_TYPE", "avg", "INPUT.FORMAT", "RGB", "MODEL.BACKBONE.FREEZE_AT", 1),
]


@pytest.mark.parametrize("c4", [False, True])
def test_every_key_is_obeyed(tiny_cfg, assert_same_state, c4):
    cfg = tiny_cfg(*OTHER, c4=c4)
    torch.manual_seed(0)
    ours = instantiate(lazy_model(cfg))
    torch.manual_seed(0)
    theirs = build_model(cfg)
    assert_same_state(ours, theirs)
    _assert_same_parts(ours, theirs)


def test_no_mask(tiny_cfg, assert_same_state):
    cfg = tiny_cfg("MODEL.MASK_ON", False, "MODEL.DEVICE", "meta")
    with torch.device("meta"):
        ours, theirs = instantiate(lazy_model(cfg)), build_model(cfg)
    assert_same_state(ours, theirs)
    _assert_same_parts(ours, theirs)


@pytest.mark.parametrize("c4", [False, True])
def test_same_losses_and_detections(tiny_cfg, batch, c4):
    cfg = tiny_cfg(c4=c4)
    outputs = []
    for make in (lambda: instantiate(lazy_model(cfg)), lambda: build_model(cfg)):
        torch.manual_seed(5)
        model = make()
        with EventStorage():
            losses = model(batch)
        found = model.eval()(batch)
        outputs.append((losses, [f["instances"] for f in found]))
    (losses, found), (expected, expected_found) = outputs
    assert losses.keys() == expected.keys()
    for name in losses:
        assert torch.equal(losses[name], expected[name]), name
    assert sum(len(f) for f in found)
    for a, b in zip(found, expected_found):
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.pred_masks, b.pred_masks)


def test_changes(tiny_cfg):
    model = lazy_model(tiny_cfg())
    model.roi_heads.num_classes = 3
    model.backbone.gn.num_groups = 16
    model.backbone.resnets.depth = 34
    model.roi_heads.box_head.conv_norm.num_groups = 8
    built = instantiate(model)
    assert built.roi_heads.box_predictor.cls_score.out_features == 4
    assert built.roi_heads.mask_head.predictor.out_channels == 3
    assert built.backbone.bottom_up.stem.conv1.norm.num_groups == 16
    assert len(built.backbone.bottom_up.res4) == 6
    assert built.roi_heads.box_head.conv1.norm.num_groups == 8


def test_random_numbers_are_left_alone(tiny_cfg):
    cfg = tiny_cfg()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    lazy_model(cfg)
    assert torch.rand(1) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.META_ARCHITECTURE", "RetinaNet"),
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
        ("MODEL.KEYPOINT_ON", True),
    ],
)
def test_what_has_no_lazy_form(tiny_cfg, key, value):
    with pytest.raises(ConfigError, match=f"{key} {value!r} has no lazy form"):
        lazy_model(tiny_cfg(key, value))
