"""The pre-training configs: the paper's recipe, and differences alone."""

from pathlib import Path

import pytest
import torch
import yaml
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from torch import nn

import gn_det
from gn_det import model_zoo
from gn_det.checkpoint import Checkpointer, PretrainMetadata, WeightsError
from gn_det.config import config_folder, flatten
from gn_det.data.pretraining.transforms import resize_to
from gn_det.modeling import find_problems, pretrain_spec_from_cfg

FOLDER = config_folder() / "pretrain"
NAMES = [
    *(f"resnet{depth}_{norm}" for depth in (50, 101) for norm in ("bn", "ln", "in", "gn")),
    *(f"vgg16_{norm}" for norm in ("none", "bn", "gn")),
]

DESK = {
    "fashion_resnet18_gn": 10,
    "photo_digits_resnet18_gn": 10,
    "video_resnet18_bn": 9,
    "video_resnet18_gn": 9,
}  # with their classes


def _cfg(name, *options):
    cfg = gn_det.get_cfg()
    cfg.merge_from_file(str(FOLDER / f"{name}.yaml"))
    cfg.merge_from_list(list(options))
    return cfg


def test_all_are_there_and_none_is_a_detectors():
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted([*NAMES, *DESK])
    assert not {f"{name}.yaml" for name in [*NAMES, *DESK]} & set(model_zoo.list_configs())


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_recipe(name):
    cfg = _cfg(name)
    s, p = cfg.SOLVER, cfg.PRETRAIN
    assert (p.EPOCHS, p.STEPS, s.GAMMA, s.IMS_PER_BATCH) == (100, (30, 60, 90), 0.1, 256)
    assert p.REFERENCE_BATCH == 256
    lr = 0.01 if name == "vgg16_none" else 0.1
    assert lr == s.BASE_LR
    assert (s.WEIGHT_DECAY, s.WEIGHT_DECAY_NORM, s.MOMENTUM) == (1e-4, 1e-4, 0.9)
    assert s.WEIGHT_DECAY_BIAS in (None, 1e-4)
    assert (p.CROP, resize_to(cfg), p.CROP_AREA) == (224, 256, (0.08, 1.0))
    assert cfg.MODEL.GN.ZERO_INIT_RESIDUAL is name.startswith("resnet")
    assert find_problems(cfg, num_processes=8) == []


@pytest.mark.parametrize("name", NAMES)
def test_builds_with_its_norm_after_every_convolution(name):
    cfg = _cfg(name, "MODEL.DEVICE", "meta")
    with torch.device("meta"):
        model = META_ARCH_REGISTRY.get("ImageClassifier")(cfg)
    kinds = {"bn": nn.BatchNorm2d, "none": type(None)}
    norms = [m.norm for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(norms) == {"resnet50": 53, "resnet101": 104, "vgg16": 13}[name.rpartition("_")[0]]
    assert all(isinstance(n, kinds.get(name.split("_")[1], nn.GroupNorm)) for n in norms)
    assert all(p.requires_grad for p in model.parameters())
    assert model.linear.out_features == 1000


@pytest.mark.parametrize("key", ["NUM_GROUPS", "CHANNELS_PER_GROUP"])
@pytest.mark.parametrize("value", [64, 32, 16, 8, 4, 2, 1])
def test_groups_of_table_3(key, value):
    cfg = _cfg("resnet50_gn", f"MODEL.GN.{key}", value)
    assert find_problems(cfg, num_processes=8) == []
    assert getattr(pretrain_spec_from_cfg(cfg), key.lower()) == value


@pytest.mark.parametrize("name", [*NAMES, *DESK])
def test_states_only_differences(name):
    path = FOLDER / f"{name}.yaml"
    body = yaml.safe_load(path.read_text())
    bases = [path.parent / base for base in body.pop("_BASE_")]
    assert not any("_BASE_" in yaml.safe_load(base.read_text()) for base in bases)
    inherited = gn_det.get_cfg()
    for base in bases:
        inherited.merge_from_file(str(base))
    before, cfg = dict(flatten(inherited)), dict(flatten(_cfg(name)))
    stated = [key for key, _ in flatten(gn_det.config.CfgNode(body))]
    assert stated
    assert [key for key in stated if cfg[key] == before[key]] == []
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("name", DESK)
def test_desk_configs_need_no_file_and_no_gpu(name):
    cfg = _cfg(name, "MODEL.DEVICE", "cpu")
    assert cfg.PRETRAIN.DATASET != "image_folder"
    assert DESK[name] == cfg.MODEL.CLASSIFIER.NUM_CLASSES
    assert find_problems(cfg) == []


def test_the_embedded_detector_starts_from_photo_digits(tmp_path):
    """Its whole backbone is in the file, which knows how the images were fed to it."""
    made = build_model(_cfg("photo_digits_resnet18_gn", "MODEL.DEVICE", "cpu"))
    trained_as = PretrainMetadata(_cfg("photo_digits_resnet18_gn"))
    Checkpointer(made, str(tmp_path), gn_det=trained_as).save("model_final")
    cfg = model_zoo.get_config("photo_digits_mask_rcnn_R18_gn_all.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", str(tmp_path / "model_final.pth")
    detector = build_model(cfg)
    checkpointer = Checkpointer(detector, cfg=cfg)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=False)
    body = detector.backbone.bottom_up.state_dict()
    matched = {f"backbone.bottom_up.{name}" for name in body}
    assert set(checkpointer.report.matched) == matched
    pre_trained = made.backbone.state_dict()
    for name, value in body.items():
        assert torch.equal(value, pre_trained[name])
    # the classifier has one stage more
    assert {name.split(".")[0] for name in pre_trained.keys() - body.keys()} == {"res5"}
    cfg.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]
    with pytest.raises(WeightsError, match="PIXEL_STD"):
        Checkpointer(detector, cfg=cfg).resume_or_load(cfg.MODEL.WEIGHTS, resume=False)


def test_a_detector_of_the_same_network_fits():
    pairs = {
        "mask_rcnn_R50_gn_all.yaml": "resnet50_gn",
        "mask_rcnn_R101_gn_all.yaml": "resnet101_gn",
        "mask_rcnn_R50_C4_gn.yaml": "resnet50_gn",
        "mask_rcnn_VGG16_gn_all.yaml": "vgg16_gn",
        "photo_digits_mask_rcnn_R18_gn_all.yaml": "photo_digits_resnet18_gn",
    }
    for detector, name in pairs.items():
        known = pretrain_spec_from_cfg(_cfg(name))
        assert gn_det.modeling.check_weights(model_zoo.get_config(detector), known) == []


def test_a_detector_of_bn_needs_the_stride_of_the_pre_training():
    """The paper's BN* starts from MSRA's weights, which have it elsewhere."""
    for depth in (50, 101):
        known = pretrain_spec_from_cfg(_cfg(f"resnet{depth}_bn"))
        cfg = model_zoo.get_config(f"mask_rcnn_R{depth}_bn_frozen.yaml")
        (problem,) = gn_det.modeling.check_weights(cfg, known)
        assert "MODEL.RESNETS.STRIDE_IN_1X1" in problem.message
        cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
        assert gn_det.modeling.check_weights(cfg, known) == []


def test_vgg_detector_names_the_command_that_makes_its_weights():
    text = (config_folder() / "base" / "VGG16_gn.yaml").read_text()
    command = next(line for line in text.splitlines() if "gn-det pretrain" in line)
    words = command.split()
    assert Path(FOLDER.parent.parent, words[words.index("--config") + 1]).is_file()
    cfg = model_zoo.get_config("mask_rcnn_VGG16_gn_all.yaml")
    folder = words[words.index("OUTPUT_DIR") + 1]
    assert f"{folder}/model_final.pth" == cfg.MODEL.WEIGHTS
