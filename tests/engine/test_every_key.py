"""Each key of Detectron2's config is read by a run of ours; a new one that is not fails here."""

import argparse
import pickle

import detectron2.config
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from gn_det.config import flatten
from gn_det.config.recording_cfg import RecordingCfg
from gn_det.engine import Trainer
from gn_det.engine.setup import open_output_folder
from gn_det.modeling.inspect import look_at

# what no part of Detectron2 reads; warned of where it is set (tests/modeling/test_unread_keys.py)
READ_BY_NOBODY = {"GLOBAL.HACK"}
# read as a whole, by cfg.dump(), or in files: the tests of these keys are beside their code
ELSEWHERE = (
    "VERSION",  # tests/config/test_cfg_node.py
    "OUTPUT_DIR",
    "SEED",
    "CUDNN_BENCHMARK",  # below
    "FLOAT32_PRECISION",
    "TEST.AUG.",  # tests/engine/test_trainer.py
    "TEST.KEYPOINT_OKS_SIGMAS",
    "TEST.EXPECTED_RESULTS",  # tests/engine/test_evaluation_run.py
)
# models whose parts are, together, all that Detectron2 builds from a config
MODELS = {
    "R-CNN": [
        *("MODEL.MASK_ON", True, "MODEL.KEYPOINT_ON", True),
        *("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True, "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True),
        *("DATASETS.TRAIN", ("with_counts",)),
    ],
    "C4": ["c4"],
    "cascade": [
        *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
        *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    ],
    "rotated": [
        *("MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"),
        *("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN", "MODEL.ROI_HEADS.NAME", "RROIHeads"),
        *("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignRotated", "MODEL.MASK_ON", False),
        *("MODEL.RPN.BBOX_REG_WEIGHTS", (1.0,) * 5),
        *("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 5.0, 1.0)),
    ],
    "panoptic": ["MODEL.META_ARCHITECTURE", "PanopticFPN"],
    "RetinaNet": [
        *("MODEL.META_ARCHITECTURE", "RetinaNet"),
        *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"),
        *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
        *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
    ],
}


def _read_by_models(tiny_cfg):
    read = set()
    # of the five classes of the tiny model
    counts = [{"id": number + 1, "image_count": 1} for number in range(5)]
    MetadataCatalog.get("with_counts").set(class_image_count=counts)
    for options in MODELS.values():
        is_c4 = options == ["c4"]
        cfg = tiny_cfg(*([] if is_c4 else options), c4=is_c4)
        read |= look_at(cfg).read.keys()
    return read


SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")


@pytest.fixture
def proposals(digits, tmp_path, forget):
    """Register the digits with the names of keypoints, and write one proposal for each image."""
    dicts = DatasetCatalog.get(digits[0])
    DatasetCatalog.register("with_keypoints", lambda: dicts)
    MetadataCatalog.get("with_keypoints").set(
        keypoint_names=["middle"], keypoint_flip_map=[], evaluator_type="coco"
    )
    content = {
        "ids": [d["image_id"] for d in dicts],
        "boxes": [np.array([[1.0, 2.0, 30.0, 40.0]]) for _ in dicts],
        "objectness_logits": [np.array([3.0]) for _ in dicts],
        "bbox_mode": 0,
    }
    path = tmp_path / "proposals.pkl"
    path.write_bytes(pickle.dumps(content))
    return str(path)


def _read_by_training(cfg):
    recording = RecordingCfg.copy_of(cfg)
    trainer = Trainer(recording)
    trainer.resume_or_load(resume=False)
    trainer._trainer.optimizer.step()
    Trainer.test(recording, trainer.model)
    return recording.read.keys()


def _read_by_loaders(cfg):
    recording = RecordingCfg.copy_of(cfg)
    for loader in (
        Trainer.build_train_loader(recording),
        Trainer.build_test_loader(recording, cfg.DATASETS.TEST[0]),
    ):
        image = next(iter(loader))[0]
        assert len(image["proposals"]) == 1  # MODEL.LOAD_PROPOSALS is obeyed
    return recording.read.keys()


def test_every_key_is_read(tiny_cfg, digits_options, proposals, tmp_path):
    read = _read_by_models(tiny_cfg)
    options = [
        *digits_options,
        *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
        *("SOLVER.BASE_LR_END", 1e-5, "SOLVER.WARMUP_ITERS", 1, "SOLVER.NUM_DECAYS", 1),
        *("TEST.PRECISE_BN.ENABLED", True, "MODEL.FPN.NORM", "BN", "TEST.EVAL_PERIOD", 1),
        *("INPUT.CROP.ENABLED", True, "OUTPUT_DIR", str(tmp_path)),
    ]
    for schedule in SCHEDULES:
        read |= _read_by_training(tiny_cfg(*options, "SOLVER.LR_SCHEDULER_NAME", schedule))
    name = "with_keypoints"
    options += [
        *("MODEL.LOAD_PROPOSALS", True, "MODEL.KEYPOINT_ON", True, "MODEL.MASK_ON", False),
        *("MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", 0, "INPUT.CROP.ENABLED", False),
        *("DATASETS.TRAIN", (name,), "DATASETS.PROPOSAL_FILES_TRAIN", (proposals,)),
        *("DATASETS.TEST", (name,), "DATASETS.PROPOSAL_FILES_TEST", (proposals,)),
        *("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
    ]
    read |= _read_by_loaders(tiny_cfg(*options))
    unread = dict(flatten(detectron2.config.get_cfg())).keys() - read
    assert {key for key in unread if not key.startswith(ELSEWHERE)} == READ_BY_NOBODY


def test_keys_that_detectron2_reads_in_its_set_up(tiny_cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    cfg = tiny_cfg("CUDNN_BENCHMARK", True, "SEED", 7, "OUTPUT_DIR", str(tmp_path / "out"))
    args = argparse.Namespace(config_file="", eval_only=False)
    open_output_folder(cfg, args, cfg.OUTPUT_DIR, verbose=False)
    drawn = torch.rand(3)
    assert torch.backends.cudnn.benchmark
    assert (tmp_path / "out" / "config.yaml").exists()
    open_output_folder(cfg, args, cfg.OUTPUT_DIR, verbose=False)
    assert torch.equal(torch.rand(3), drawn)
