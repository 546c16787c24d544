"""Configs that lack our keys, and trainers that do not read them."""

import logging

import detectron2.config
import pytest
import torch
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from torch import nn

import gn_det
from gn_det import data, engine
from gn_det.checkpoint import Checkpointer
from gn_det.config import ConfigError, images_per_micro_batch

PARTS = {
    "MODEL.BACKBONE.NAME": [
        "build_gn_resnet_backbone",
        "build_gn_resnet_fpn_backbone",
        "build_gn_vgg_backbone",
        "build_gn_vgg_fpn_backbone",
        "build_gn_inflated_resnet_backbone",
    ],
    "MODEL.RPN.HEAD_NAME": ["GNRPNHead"],
    "MODEL.ROI_HEADS.NAME": ["GNRes5ROIHeads"],
    "MODEL.META_ARCHITECTURE": ["ImageClassifier"],
}


def _plain(*options):
    cfg = detectron2.config.get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *options])
    return cfg


FUNCTIONS = {
    "check_config": gn_det.check_config,
    "register_datasets": data.register_datasets,
    "check_labelled_data": data.check_labelled_data,
    "images_per_micro_batch": lambda cfg: images_per_micro_batch(cfg, 1),
    "check_run": engine.check_run,
    "Trainer": engine.Trainer,
    "autocast": lambda cfg: engine.autocast(_plain("SOLVER.AMP.ENABLED", True)),
    "Checkpointer": lambda cfg: Checkpointer(nn.Linear(1, 1), cfg=cfg),
    "TrainingRun": lambda cfg: engine.TrainingRun(
        cfg, nn.Linear(1, 1), torch.optim.SGD([nn.Parameter(torch.ones(1))]), None, [], None
    ),
    **{
        name: lambda cfg, key=key, name=name: build_model(_plain(key, name))
        for key, names in PARTS.items()
        for name in names
    },
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_config_without_our_keys_is_told_what_to_call(name):
    message = r"no MODEL\.GN.*gn_det\.get_cfg\(\).*gn_det\.add_gn_config\(cfg\)"
    with pytest.raises(ConfigError, match=message) as error:
        FUNCTIONS[name](_plain())
    assert error.value.key == "MODEL.GN"


def test_no_part_of_ours_is_left_out():
    ours = {
        name
        for registry in (
            detectron2.modeling.BACKBONE_REGISTRY,
            detectron2.modeling.proposal_generator.rpn.RPN_HEAD_REGISTRY,
            detectron2.modeling.ROI_HEADS_REGISTRY,
            detectron2.modeling.META_ARCH_REGISTRY,
        )
        for name, part in registry
        if part.__module__.startswith("gn_det.")
    }
    # only poolers differ in it, which read none of our keys
    assert ours - {"GNStandardROIHeads"} == {name for names in PARTS.values() for name in names}


class OwnTrainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return []

    def build_hooks(self):
        return []


class OwnGNTrainer(engine.Trainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return []


KEYS = ["SOLVER.EMA_DECAY", 0.5, "SOLVER.IMS_PER_STEP", 1, "SOLVER.AMP.DTYPE", "bfloat16"]


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, "gn_det.modeling.from_cfg")
    return lambda: [r.message for r in caplog.records if r.name == "gn_det.modeling.from_cfg"]


def test_detectron2s_trainer_is_warned_of_keys_that_it_ignores(tiny_cfg, warnings):
    cfg = tiny_cfg(*KEYS)
    OwnTrainer(cfg)
    (message,) = warnings()
    assert message == (
        "OwnTrainer is a DefaultTrainer of Detectron2, which does not know SOLVER.AMP.DTYPE "
        "bfloat16, SOLVER.EMA_DECAY 0.5, SOLVER.IMS_PER_STEP 1. Derive it from "
        "gn_det.engine.Trainer, or train with `gn-det train`."
    )
    OwnTrainer(cfg)
    assert len(warnings()) == 2  # once for each trainer


def test_no_false_alarm(tiny_cfg, warnings, tmp_path):
    OwnTrainer(tiny_cfg("MODEL.GN.NUM_GROUPS", 16))  # a key that it obeys
    cfg = tiny_cfg(*KEYS, "OUTPUT_DIR", str(tmp_path))
    build_model(cfg)
    DefaultTrainer.build_model(cfg)  # to evaluate
    OwnTrainer.build_model(cfg)
    OwnGNTrainer(cfg)
    gn_det.check_config(cfg)
    assert warnings() == []
