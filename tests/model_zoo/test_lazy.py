"""Every YAML has a LazyConfig, whose other parts are the YAML's as well."""

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetMapper
from detectron2.data.build import _train_loader_from_config
from detectron2.solver import build_lr_scheduler, build_optimizer
from omegaconf import OmegaConf

from gn_det import model_zoo
from gn_det.config import ConfigError
from gn_det.data import ensure_dataset
from gn_det.model_zoo import lazy_config


@pytest.mark.parametrize("name", model_zoo.list_configs())
def test_every_config_has_one(name):
    yaml, lazy = model_zoo.get_config(name), model_zoo.get_config(name.replace(".yaml", ".py"))
    assert list(lazy) == ["model", "dataloader", "optimizer", "lr_multiplier", "train"]
    assert OmegaConf.to_container(lazy, resolve=True)["dataloader"]["evaluator"] == {
        "_target_": "gn_det.evaluation.build_evaluator",
        "dataset_name": yaml.DATASETS.TEST[0],
        "output_dir": f"./output/inference/{yaml.DATASETS.TEST[0]}",
    }
    assert lazy.train.init_checkpoint == yaml.MODEL.WEIGHTS
    assert lazy.model.roi_heads.box_predictor.num_classes == yaml.MODEL.ROI_HEADS.NUM_CLASSES


def test_files_are_what_is_made_without_them():
    for path in model_zoo.configs.config_folder().glob("*.py"):
        made = lazy_config(model_zoo.get_config(path.name.replace(".py", ".yaml")))
        assert model_zoo.get_config(path.name) == made
        assert LazyConfig.load(model_zoo.get_config_file(path.name)) == made
    assert model_zoo.get_config_file("mask_rcnn_R50_gn_all.py").endswith("_all.py")


def test_unknown_name():
    with pytest.raises(FileNotFoundError, match=r"Closest: mask_rcnn_R50_gn_all\.py"):
        model_zoo.get_config("mask_rcnn_R50_gn_al.py")


SOLVERS = [
    [],
    ["SOLVER.STEPS", (4, 7, 20), "SOLVER.GAMMA", 0.5, "SOLVER.WARMUP_METHOD", "constant"],
    ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", 0.001],
    [
        *("SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR", "SOLVER.NUM_DECAYS", 2),
        *("SOLVER.BIAS_LR_FACTOR", 2.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.0, "SOLVER.NESTEROV", True),
        *("SOLVER.WEIGHT_DECAY_NORM", 0.5, "SOLVER.RESCALE_INTERVAL", True),
    ],
]


@pytest.mark.parametrize("options", SOLVERS)
def test_same_optimizer_and_schedule(tiny_cfg, options):
    cfg = tiny_cfg("SOLVER.MAX_ITER", 10, "SOLVER.STEPS", (), "SOLVER.WARMUP_ITERS", 3, *options)
    lazy = lazy_config(cfg)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 1), torch.nn.GroupNorm(2, 32))
    lazy.optimizer.params.model = model
    ours, theirs = instantiate(lazy.optimizer), build_optimizer(cfg, model)
    assert type(ours) is type(theirs) is torch.optim.SGD
    assert str(ours) == str(theirs)  # all groups with all their numbers
    scheduler, multiplier = build_lr_scheduler(cfg, theirs), instantiate(lazy.lr_multiplier)
    for step in range(9):
        expected = theirs.param_groups[0]["lr"]
        base = ours.param_groups[0]["lr"]
        assert base * multiplier(step / 10) == pytest.approx(expected)
        scheduler.step()


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [0.5, 0.5]],
        [
            *("INPUT.RANDOM_FLIP", "vertical", "INPUT.FORMAT", "RGB"),
            *("INPUT.MIN_SIZE_TRAIN", (48, 64), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
        ],
    ],
)
def test_same_data(tiny_cfg, digits, options):
    train, val = digits
    ensure_dataset(train)
    cfg = tiny_cfg(
        *("DATASETS.TRAIN", (train,), "DATASETS.TEST", (val,), "INPUT.MASK_FORMAT", "bitmask"),
        *("DATALOADER.NUM_WORKERS", 0, *options),
    )
    loader = lazy_config(cfg).dataloader
    expected = _train_loader_from_config(cfg)
    loader.train.dataset.names = [train]
    record = instantiate(loader.train.dataset)
    assert record == expected["dataset"]
    assert loader.train.total_batch_size == expected["total_batch_size"] == 2
    for mapper, is_train in ((loader.train.mapper, True), (loader.test.mapper, False)):
        outputs = []
        for mapping in (instantiate(mapper), DatasetMapper(cfg, is_train)):
            np.random.seed(3)
            outputs.append([mapping(dict(r)) for r in record[:3]])
        for ours, theirs in zip(*outputs):
            assert torch.equal(ours["image"], theirs["image"])
            assert ours.keys() == theirs.keys()
            if is_train:
                a, b = ours["instances"], theirs["instances"]
                assert torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor)
                assert torch.equal(a.gt_masks.tensor, b.gt_masks.tensor)


def test_what_has_no_lazy_form(tiny_cfg):
    with pytest.raises(ConfigError, match="DATASETS.TEST is .* one dataset"):
        lazy_config(tiny_cfg("DATASETS.TEST", ("a", "b")))
    with pytest.raises(ConfigError, match="DATALOADER.SAMPLER_TRAIN"):
        lazy_config(tiny_cfg("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"))
