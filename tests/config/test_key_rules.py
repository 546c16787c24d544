"""Each set beside the code that reads it: Detectron2 takes each value of it, and refuses others."""

import contextlib
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.build import _train_loader_from_config
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss
from detectron2.modeling.poolers import ROIPooler
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.structures import Boxes
from torch import nn

import gn_det
from gn_det.config import ConfigError, allow_value, flatten
from gn_det.config.key_rules import RULES, key_problems


def _cfg(*options):
    cfg = gn_det.get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *options])
    return cfg


def _schedule(cfg):
    cfg.SOLVER.BASE_LR_END = 0.0
    return build_lr_scheduler(cfg, build_optimizer(cfg, nn.Linear(2, 2)))


def _box_loss(cfg, node):
    box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    loss = cfg.MODEL[node].BBOX_REG_LOSS_TYPE
    transform, inside = Box2BoxTransform((1.0,) * 4), torch.ones(1, 1, dtype=torch.bool)
    return _dense_box_regression_loss(
        [Boxes(box)], transform, [torch.zeros(1, 1, 4)], [box], inside, box_reg_loss_type=loss
    )


def _sampler(cfg):
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = []
    cfg.DATASETS.TRAIN = ("photo_digits_val",)
    annotation = {"category_id": 0}
    dicts = [{"image_id": i, "annotations": [annotation]} for i in range(4)]
    # a weighted sampler is known, and asserts that the dicts are the dataset's
    with contextlib.suppress(AssertionError):
        _train_loader_from_config(cfg, lambda x: x, dataset=dicts)


def _fpn(cfg):
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    with torch.device("meta"):
        return build_backbone(cfg, ShapeSpec(channels=3))


def _crop(cfg):
    cfg.INPUT.CROP.SIZE = [1, 1]
    crop = T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE)
    return crop.get_transform(np.zeros((4, 4, 3)))


def _masks(cfg):
    from detectron2.data.detection_utils import annotations_to_instances

    polygon = cfg.INPUT.MASK_FORMAT == "polygon"
    mask = [np.array([0.0, 0, 4, 0, 4, 4])] if polygon else np.ones((8, 8), bool)
    box = {"bbox": [0, 0, 4, 4], "bbox_mode": 0, "category_id": 0, "segmentation": mask}
    return annotations_to_instances([box], (8, 8), mask_format=cfg.INPUT.MASK_FORMAT)


def _image(cfg):
    from detectron2.data.detection_utils import convert_PIL_to_numpy
    from PIL import Image

    return convert_PIL_to_numpy(Image.new("RGB", (2, 2)), cfg.INPUT.FORMAT)


READERS = {
    "SOLVER.LR_SCHEDULER_NAME": _schedule,
    "SOLVER.WARMUP_METHOD": lambda cfg: _schedule(cfg).step(),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": lambda cfg: (
        setattr(cfg.SOLVER.CLIP_GRADIENTS, "ENABLED", True),
        build_optimizer(cfg, nn.Linear(2, 2)),
    ),
    "DATALOADER.SAMPLER_TRAIN": _sampler,
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": lambda cfg: _box_loss(cfg, "RPN"),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": lambda cfg: _box_loss(cfg, "ROI_BOX_HEAD"),
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": lambda cfg: _box_loss(cfg, "RETINANET"),
    **{
        f"MODEL.{head}.POOLER_TYPE": lambda cfg, head=head: ROIPooler(
            7, [0.25], 0, cfg.MODEL[head].POOLER_TYPE
        )
        for head in ("ROI_BOX_HEAD", "ROI_MASK_HEAD", "ROI_KEYPOINT_HEAD")
    },
    "MODEL.FPN.FUSE_TYPE": _fpn,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": lambda cfg: T.ResizeShortestEdge(
        [8, 9], 20, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    ),
    "INPUT.CROP.TYPE": _crop,
    "INPUT.RANDOM_FLIP": lambda cfg: DatasetMapper(cfg, is_train=True),
    "INPUT.MASK_FORMAT": _masks,
    "INPUT.FORMAT": _image,
    "SOLVER.AMP.DTYPE": lambda cfg: torch.autocast("cpu", getattr(torch, cfg.SOLVER.AMP.DTYPE)),
    "FLOAT32_PRECISION": lambda cfg: None,  # a key of newer versions of Detectron2
    "SOLVER.ON_SAVE_ERROR": lambda cfg: None,  # ours
}
# what Detectron2 does not refuse by itself: it trains with another mask or dtype, or fails late
NOT_REFUSED = {"INPUT.MASK_FORMAT", "SOLVER.AMP.DTYPE", "FLOAT32_PRECISION", "SOLVER.ON_SAVE_ERROR"}
SETS = [key for key, rule in RULES.items() if rule.names]


def _errors(cfg):
    return [problem.message for problem in key_problems(cfg) if problem.fatal]


def test_every_set_has_a_reader():
    assert set(SETS) == set(READERS)


@pytest.mark.parametrize("key", SETS)
def test_sets_are_those_of_the_code_that_reads_them(key):
    known = dict(flatten(gn_det.get_cfg()))
    if key not in known:
        pytest.skip("this Detectron2 has no such key")
    for name in RULES[key].names:
        if name:  # a PointRend's head pools by itself: "" reaches no pooler
            READERS[key](_cfg(key, name))
        assert _errors(_cfg(key, name)) == []
    name = RULES[key].names[0][:-1] + "X"
    wrong = _cfg(key, name)
    (message,) = _errors(wrong)
    assert message.startswith(f"{key} is {name!r}; it takes {RULES[key].words}.")
    if key not in NOT_REFUSED:
        with pytest.raises((ValueError, AssertionError, RuntimeError, KeyError)):
            READERS[key](wrong)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.DEVICE", "gpu", "MODEL.DEVICE is 'gpu'; it takes cpu, cuda (a GPU), cuda:N"),
        ("INPUT.FORMAT", "BGRA", "INPUT.FORMAT is 'BGRA'; it takes BGR, RGB, L, YUV-BT.601 or"),
        ("INPUT.FORMAT", "RBG", "Was RGB meant?"),
        ("INPUT.MASK_FORMAT", "rle", "it takes polygon, bitmask."),
        ("DATALOADER.SAMPLER_TRAIN", "WeightedSampler", "Was WeightedTrainingSampler meant?"),
        ("SOLVER.MAX_ITER", 0, "SOLVER.MAX_ITER is 0; it takes 1 or more."),
        ("SOLVER.BASE_LR", -0.1, "SOLVER.BASE_LR is -0.1; it takes 0 or more."),
        ("SOLVER.BASE_LR", math.inf, "SOLVER.BASE_LR is inf; it takes 0 or more."),
        ("SOLVER.BASE_LR", math.nan, "SOLVER.BASE_LR is nan; it takes 0 or more."),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model", "it takes value, norm."),
        ("SOLVER.CHECKPOINT_PERIOD", 0, "more than SOLVER.MAX_ITER only the end is saved"),
        ("SOLVER.KEEP_CHECKPOINTS", -1, "SOLVER.KEEP_CHECKPOINTS is -1; it takes 0 or more (0 ke"),
        ("SOLVER.EMA_DECAY", 1.0, "SOLVER.EMA_DECAY is 1.0; it takes 0 or more, and below 1."),
        ("SOLVER.EMA_DECAY", -0.1, "SOLVER.EMA_DECAY is -0.1"),
        ("SOLVER.CLIP_GLOBAL_NORM", -1.0, "SOLVER.CLIP_GLOBAL_NORM is -1.0"),
        ("SOLVER.CLIP_GLOBAL_NORM", math.nan, "SOLVER.CLIP_GLOBAL_NORM is nan"),
        ("SOLVER.GAMMA", 0, "SOLVER.GAMMA is 0.0; it takes a number above 0."),
        ("SOLVER.MOMENTUM", 1.0, "below 1"),
        ("SOLVER.STEPS", ("a",), "SOLVER.STEPS is ('a',); it takes a list, each a whole number"),
        ("SOLVER.STEPS", (0.5, 0.8), "each a whole number of iterations, 1 or more; or no value."),
        ("SOLVER.STEPS", (0,), "each a whole number of iterations, 1 or more; or no value."),
        ("SOLVER.WEIGHT_DECAY_BIAS", "no", "it takes 0 or more, or None for WEIGHT_DECAY."),
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 50, "is 50.0; it takes 1 or less (0 keeps"),
        ("MODEL.RPN.NMS_THRESH", -0.1, "it takes 0 to 1."),
        ("MODEL.RPN.IOU_LABELS", [0, 2, 1], "it takes a list, each -1 (ignored), 0 or 1."),
        ("MODEL.RPN.CONV_DIMS", [0], "each 1 or more, or -1"),
        ("MODEL.RPN.BBOX_REG_WEIGHTS", (1, 1, 1), "it takes 4 numbers above 0, or 5 for"),
        ("SOLVER.IMS_PER_BATCH", 0, "it takes 1 or more."),
        ("MODEL.PIXEL_STD", [57.0, 0.0, 58.0], "each a number above 0"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [-64]], "each a number above 0"),
        ("INPUT.MIN_SIZE_TRAIN", (), "INPUT.MIN_SIZE_TRAIN is (); it takes a list, each 0 or m"),
        ("INPUT.MIN_SIZE_TRAIN", (-1,), "(0 does not resize)"),
        ("INPUT.CROP.SIZE", [0.5], "it takes 2 values, each a number above 0."),
        ("DATALOADER.NUM_WORKERS", -1, "DATALOADER.NUM_WORKERS is -1; it takes 0 or more."),
        ("TEST.DETECTIONS_PER_IMAGE", 0, "it takes 1 or more."),
        ("SEED", 2**32, "it takes a number below 2^32"),
        ("VERSION", 1, "VERSION is 1; it takes 2"),
        ("MODEL.GN.NUM_GROUPS", 0, "MODEL.GN.NUM_GROUPS is 0; it takes 1 or more."),
        ("MODEL.GN.CHANNELS_PER_GROUP", -1, "it takes 0 or more (0 goes by MODEL.GN.NUM_GROUPS)."),
        ("PRETRAIN.CROP", 0, "PRETRAIN.CROP is 0; it takes 1 or more."),
        ("PRETRAIN.CROP_AREA", (0.5, 0.1), "it takes the smallest and the largest share"),
        ("PRETRAIN.CROP_AREA", (0.5,), "it takes the smallest and the largest share"),
        ("PRETRAIN.COLOR_JITTER", -0.1, "it takes 0 or more."),
        ("MODEL.WEIGHTS", None, "it takes text. The default is ''."),
        ("OUTPUT_DIR", "", "it takes a folder, such as ./output."),
        ("OUTPUT_DIR", None, "OUTPUT_DIR is None; it takes a folder, such as ./output. Th"),
        ("SOLVER.MAX_ITER", None, "SOLVER.MAX_ITER is None; it takes 1 or more. The default is 40"),
    ],
)
def test_wrong_values(key, value, message):
    (error,) = _errors(_cfg(key, value))
    assert error.startswith(f"{key} is ")
    assert message in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.BASE_LR", 0),
        ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", math.inf),
        ("SOLVER.CLIP_GLOBAL_NORM", math.inf),
        ("SOLVER.STEPS", ()),
        ("SOLVER.STEPS", (6e4, 8e4)),
        ("SOLVER.WEIGHT_DECAY_BIAS", 0),
        ("INPUT.MIN_SIZE_TEST", 0),
        ("INPUT.FORMAT", "YUV-BT.601"),
        ("INPUT.FORMAT", "RGBA"),
        ("MODEL.DEVICE", "cuda:3"),
        ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", ""),
        ("MODEL.PIXEL_MEAN", [103, 116, 123]),
        ("MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS", [[10, 10, 5, 5]] * 3),
        ("SEED", 2**32 - 1),
        ("SEED", -5),  # each negative one means the same to Detectron2
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", -1),
        ("PRETRAIN.CROP_AREA", (1, 1)),
        ("MODEL.RPN.CONV_DIMS", [-1, 256]),
        ("MODEL.RPN.BBOX_REG_WEIGHTS", (1, 1, 1, 1, 1)),
    ],
)
def test_values_at_the_border(key, value):
    assert _errors(_cfg(key, value)) == []


def test_values_that_code_has_set():
    cfg = gn_det.get_cfg()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.MODEL.MASK_ON = 1e3, 1, 1
    cfg.DATASETS.TRAIN = "my_train"
    assert _errors(cfg) == [
        "MODEL.MASK_ON takes True or False, such as False (its value now), but a whole number was "
        "given: 1.",
        "DATASETS.TRAIN takes a list, but text was given: my_train. Write \"('my_train',)\".",
        "SOLVER.MAX_ITER is 1000.0; it takes a whole number. Set 1000.",
    ]


def test_keys_of_other_projects_are_theirs():
    cfg = gn_det.get_cfg()
    cfg.MODEL.OTHER = type(cfg)({"NUM_WORKERS": -1})
    assert _errors(cfg) == []


def test_values_that_code_of_a_user_obeys(monkeypatch):
    monkeypatch.setattr("gn_det.config.key_rules.RULES", dict(RULES))
    key = "SOLVER.LR_SCHEDULER_NAME"
    (message,) = _errors(_cfg(key, "WarmupPolyLR"))
    assert "gn_det.config.allow_value('SOLVER.LR_SCHEDULER_NAME', 'WarmupPolyLR')" in message
    allow_value(key, "WarmupPolyLR")
    allow_value(key, "Another")
    for name in ("WarmupPolyLR", "Another", "WarmupCosineLR"):
        assert _errors(_cfg(key, name)) == []
    assert "WarmupPolyLR, Another." in _errors(_cfg(key, "x"))[0]
    for closed in ("SOLVER.AMP.DTYPE", "SOLVER.MAX_ITER", "NO.KEY"):
        with pytest.raises(ConfigError, match="has no set of values"):
            allow_value(closed, "x")


def test_evaluation_does_not_ask_for_the_schedule(tiny_cfg):
    cfg = tiny_cfg("SOLVER.MAX_ITER", 0, "SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR")
    gn_det.check_config(cfg, training=False)
    with pytest.raises(ConfigError, match="MAX_ITER is 0") as error:
        gn_det.check_config(cfg)
    assert len(str(error.value).splitlines()) == 2  # all of them, one line each
    with pytest.raises(ConfigError, match="NUM_WORKERS is -1"):
        gn_det.check_config(tiny_cfg("DATALOADER.NUM_WORKERS", -1), training=False)
