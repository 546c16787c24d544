"""Each Python config is the YAML of its name: one model, optimizer, schedule, data and run."""

from functools import partial

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetMapper, get_detection_dataset_dicts
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf

from gn_det import model_zoo
from gn_det.config import config_folder
from gn_det.data import WindowedMapper
from gn_det.evaluation import build_evaluator

NAMES = sorted(path.stem for path in config_folder().glob("*.py"))
SMALL = ["photo_digits_mask_rcnn_R18_gn_all", "mask_rcnn_R50_C4_gn"]
MINIMUM = {
    "mask_rcnn_R50_gn_all",
    "mask_rcnn_R101_gn_all",
    "scratch_mask_rcnn_R50_gn_all",
    "mask_rcnn_R50_bn_frozen",
    "mask_rcnn_R50_C4_gn",
    "mask_rcnn_R50_gn_ws_all",
    "photo_digits_mask_rcnn_R18_gn_all",
}


def _pair(name):
    return model_zoo.get_config(f"{name}.yaml"), model_zoo.get_config(f"{name}.py")


def _plain(value):
    """Return a value that can be compared, whatever class carries it."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if type(value) is int:
        return float(value)  # 0 and 0.0 are the same
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
        (kind, mine), (other, yours) = _describe(a), _describe(b)
        assert kind is other, name
        # a function that Detectron2 makes anew for each model; no config here uses it
        mine.pop("get_fed_loss_cls_weights", None), yours.pop("get_fed_loss_cls_weights", None)
        for key in mine.keys() | yours.keys():
            assert key in mine, (name, key)
            assert str(mine[key]) == str(yours[key]), (name, key)


def test_which_there_are():
    assert set(NAMES) >= MINIMUM
    assert {f"{name}.yaml" for name in NAMES} <= set(model_zoo.list_configs())


@pytest.mark.parametrize("name", NAMES)
def test_same_model(name, assert_same_state):
    cfg, lazy = _pair(name)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        ours, theirs = instantiate(lazy.model), build_model(cfg)
    assert_same_state(ours, theirs)
    _assert_same_parts(ours, theirs)


@pytest.mark.parametrize("name", SMALL)
def test_same_weights_losses_and_detections(name, batch, assert_same_state):
    cfg, lazy = _pair(name)
    cfg.MODEL.DEVICE = "cpu"
    # few boxes, of any score: quick, and something is found
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 10
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE = 0.0, 5
    lazy.model.proposal_generator.post_nms_topk = [10, 10]
    lazy.model.roi_heads.box_predictor.update(test_score_thresh=0.0, test_topk_per_image=5)
    models, outputs = [], []
    for make in (lambda: instantiate(lazy.model), lambda: build_model(cfg)):
        torch.manual_seed(5)
        model = make()
        models.append(make())  # untouched, the next of the same random numbers
        with EventStorage():
            losses = model(batch)
        outputs.append((losses, [found["instances"] for found in model.eval()(batch)]))
    assert_same_state(*models)
    (losses, found), (expected, expected_found) = outputs
    assert losses.keys() == expected.keys()
    for key in losses:
        assert torch.equal(losses[key], expected[key]), key
    assert sum(len(f) for f in found)
    for a, b in zip(found, expected_found):
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.pred_masks, b.pred_masks)


@pytest.mark.parametrize("name", NAMES)
def test_same_optimizer_and_schedule(name):
    cfg, lazy = _pair(name)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 1), torch.nn.GroupNorm(2, 32))
    lazy.optimizer.params.model = model
    ours, theirs = instantiate(lazy.optimizer), build_optimizer(cfg, model)
    assert type(ours) is type(theirs) is torch.optim.SGD
    assert str(ours) == str(theirs)  # all groups with all their numbers
    end = cfg.SOLVER.MAX_ITER
    assert lazy.train.max_iter == end
    scheduler, multiplier = build_lr_scheduler(cfg, theirs), instantiate(lazy.lr_multiplier)
    drops = [step + change for step in cfg.SOLVER.STEPS for change in (-1, 0, 1)]
    warm = [cfg.SOLVER.WARMUP_ITERS + change for change in (-1, 0, 1)]
    rates = set()
    for step in [0, 1, *warm, *range(0, end, end // 20), *drops, end - 1]:
        scheduler.last_epoch = step
        expected = scheduler.get_lr()
        rates.add(expected[0])
        factor = multiplier(step / end)
        for group, rate in zip(ours.param_groups, expected, strict=True):
            assert group["lr"] * factor == pytest.approx(rate), step
    assert len(rates) > 5


@pytest.mark.parametrize("name", NAMES)
def test_same_data(name):
    cfg, lazy = _pair(name)
    # what has no counterpart here is at its default
    assert cfg.DATALOADER.SAMPLER_TRAIN == "TrainingSampler"
    assert not cfg.INPUT.CROP.ENABLED
    assert not cfg.TEST.AUG.ENABLED
    train, test = lazy.dataloader.train, lazy.dataloader.test
    assert train.dataset == {
        "_target_": get_detection_dataset_dicts,
        "names": list(cfg.DATASETS.TRAIN),
        "filter_empty": cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
    }
    assert (test.dataset.names, test.dataset.filter_empty) == (list(cfg.DATASETS.TEST), False)
    assert train.total_batch_size == cfg.SOLVER.IMS_PER_BATCH
    assert train.aspect_ratio_grouping == cfg.DATALOADER.ASPECT_RATIO_GROUPING
    assert train.num_workers == test.num_workers == cfg.DATALOADER.NUM_WORKERS
    evaluator = OmegaConf.to_container(lazy, resolve=True)["dataloader"]["evaluator"]
    (dataset,) = cfg.DATASETS.TEST
    assert evaluator == {
        "_target_": build_evaluator,
        "dataset_name": dataset,
        "output_dir": f"{cfg.OUTPUT_DIR}/inference/{dataset}",
    }
    for mapper, is_train in ((train.mapper, True), (test.mapper, False)):
        ours, theirs = (vars(m) for m in (instantiate(mapper), WindowedMapper(cfg, is_train)))
        if not is_train:  # no masks are read for an evaluation
            for of_masks in ("use_instance_mask", "instance_mask_format"):
                del ours[of_masks], theirs[of_masks]
        assert str(_plain(ours)) == str(_plain(theirs))


def test_same_images(digits):
    cfg, lazy = _pair("photo_digits_mask_rcnn_R18_gn_all")
    records = get_detection_dataset_dicts([digits[0]])
    for split, is_train in (("train", True), ("test", False)):
        mapper = lazy.dataloader[split].mapper
        outputs = []
        for mapping in (instantiate(mapper), DatasetMapper(cfg, is_train)):
            np.random.seed(3)
            outputs.append([mapping(dict(r)) for r in records[:3]])
        for ours, theirs in zip(*outputs):
            assert torch.equal(ours["image"], theirs["image"])
            assert ours.keys() == theirs.keys()
            if is_train:
                a, b = ours["instances"], theirs["instances"]
                assert torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor)
                assert torch.equal(a.gt_masks.tensor, b.gt_masks.tensor)


@pytest.mark.parametrize("name", NAMES)
def test_same_run(name):
    cfg, lazy = _pair(name)
    solver, train = cfg.SOLVER, lazy.train
    assert not solver.CLIP_GRADIENTS.ENABLED
    assert not cfg.TEST.PRECISE_BN.ENABLED
    assert train == {
        "output_dir": cfg.OUTPUT_DIR,
        "init_checkpoint": cfg.MODEL.WEIGHTS,
        "max_iter": solver.MAX_ITER,
        "amp": {"enabled": solver.AMP.ENABLED, "dtype": solver.AMP.DTYPE},
        "ddp": {
            "broadcast_buffers": False,
            "find_unused_parameters": False,
            "fp16_compression": False,
        },
        "checkpointer": {
            "period": solver.CHECKPOINT_PERIOD,
            "max_to_keep": solver.KEEP_CHECKPOINTS or None,
        },
        "eval_period": cfg.TEST.EVAL_PERIOD,
        "log_period": 20,
        "device": cfg.MODEL.DEVICE,
        "seed": cfg.SEED,
        "cudnn_benchmark": cfg.CUDNN_BENCHMARK,
        "clip_global_norm": solver.CLIP_GLOBAL_NORM,
        "ema_decay": solver.EMA_DECAY,
        "ims_per_step": solver.IMS_PER_STEP,
        "best_metric": solver.BEST_METRIC,
        "on_save_error": solver.ON_SAVE_ERROR,
        "allow_frozen_random": cfg.MODEL.GN.ALLOW_FROZEN_RANDOM,
        "allow_random_backbone": cfg.MODEL.GN.ALLOW_RANDOM_BACKBONE,
        "ignore_class_names": cfg.DATASETS.IGNORE_CLASS_NAMES,
        "deterministic": cfg.DETERMINISTIC,
    }
    assert set(lazy) == {"model", "dataloader", "optimizer", "lr_multiplier", "train"}


def test_changes():
    model = model_zoo.get_config("photo_digits_mask_rcnn_R18_gn_all.py").model
    model.roi_heads.num_classes = 3
    model.backbone.out_channels = 64
    model.backbone.bottom_up.depth = 34
    model.backbone.bottom_up.norm.num_groups = 16
    model.roi_heads.box_head.conv_norm.num_groups = 8
    model.backbone.memory = "lean"
    with torch.device("meta"):
        built = instantiate(model)
    assert built.roi_heads.box_predictor.cls_score.out_features == 4
    assert built.roi_heads.mask_head.predictor.out_channels == 3
    assert built.roi_heads.mask_head.mask_fcn1.in_channels == 64
    assert len(built.backbone.bottom_up.res4) == 6
    # each part has a norm of its own
    assert built.backbone.bottom_up.stem.conv1.norm.num_groups == 16
    assert built.backbone.output_convs[0].norm.num_groups == 32
    assert built.roi_heads.box_head.conv1.norm.num_groups == 8
    # and one memory mode is everybody's
    backbone, heads = built.backbone, built.roi_heads
    parts = (backbone, backbone.bottom_up.stem, heads.box_head, heads.mask_head)
    assert {part.memory for part in parts} == {"lean"}


OWN = """
from gn_det.model_zoo import get_config

from .base import LEVELS

_base = get_config("mask_rcnn_R50_gn_all.py")
model, dataloader, optimizer = _base.model, _base.dataloader, _base.optimizer
lr_multiplier, train = _base.lr_multiplier, _base.train
model.roi_heads.num_classes = LEVELS.number
"""


def test_a_users_own_config_inherits(tmp_path):
    (tmp_path / "base.py").write_text("LEVELS = dict(number=3)\n")
    (tmp_path / "own.py").write_text(OWN)
    own = LazyConfig.load(str(tmp_path / "own.py"))
    assert own.model.roi_heads.mask_head.num_classes == 3
    assert own.dataloader.test.mapper.image_format == "BGR"
    # what is loaded next is as it was
    zoo = model_zoo.get_config("mask_rcnn_R50_gn_all.py")
    assert zoo.model.roi_heads.num_classes == 80
    assert zoo.dataloader == own.dataloader
    assert LazyConfig.load(model_zoo.get_config_file("mask_rcnn_R50_gn_all.py")) == zoo


def test_parts_by_name():
    model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
    assert model == model_zoo.get_config("mask_rcnn_R50_gn_all.py").model


def test_a_yaml_without_a_python_config():
    with pytest.raises(FileNotFoundError, match="no file mask_rcnn_R50_gn_backbone.py") as caught:
        model_zoo.get_config("mask_rcnn_R50_gn_backbone.py")
    assert "inherits one of these" in str(caught.value)
    assert all(f"{name}.py" in str(caught.value) for name in NAMES)


def test_unknown_name():
    with pytest.raises(FileNotFoundError, match=r"Closest: mask_rcnn_R50_gn_all\.py"):
        model_zoo.get_config("mask_rcnn_R50_gn_al.py")
