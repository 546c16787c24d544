"""From pre-training to a detector: the file as training writes it, read by detection configs."""

import logging

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model

import gn_det
from gn_det.checkpoint import (
    Checkpointer,
    PretrainMetadata,
    WeightsError,
    convert,
    convert_file,
    recognize,
)
from gn_det.config import config_folder

R18 = ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
VGG11 = ["MODEL.VGG.DEPTH", 11, "MODEL.VGG.BASE_CHANNELS", 32]


def _classifier(name, *options):
    cfg = gn_det.get_cfg()
    cfg.merge_from_file(str(config_folder() / "pretrain" / f"{name}.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.CLASSIFIER.NUM_CLASSES", 7, *options])
    return cfg


@pytest.fixture(scope="module")
def trained(tmp_path_factory, randomize):
    """Return a function ``(name, *options) -> (path of a checkpoint, the classifier)``."""
    made = {}

    def make(name, *options):
        key = (name, str(options))
        if key not in made:
            cfg = _classifier(name, *options)
            model = randomize(build_model(cfg))
            folder = tmp_path_factory.mktemp(name)
            Checkpointer(model, str(folder), gn_det=PretrainMetadata(cfg)).save("model_final")
            made[key] = str(folder / "model_final.pth"), model
        return made[key]

    return make


def _backbone_names(model, body):
    return {name for name in model.state_dict() if name.startswith(body)}


@pytest.mark.parametrize(
    ("c4", "body"), [(False, "backbone.bottom_up."), (True, "backbone.")], ids=["FPN", "C4"]
)
def test_every_parameter_of_a_detectors_backbone_is_matched(trained, tiny_cfg, c4, body):
    path, classifier = trained("resnet50_gn", *R18)
    cfg = tiny_cfg(c4=c4)
    model = build_model(cfg)
    checkpointer = Checkpointer(model, cfg=cfg)
    checkpointer.load(path)
    report = checkpointer.report
    assert report.source == "gn_det"
    names = _backbone_names(model, body) | _backbone_names(model, "roi_heads.res5.")
    assert set(report.matched) == names
    assert len(report.matched) == len(classifier.state_dict()) - 2 == 60
    assert report.unused == []
    assert set(report.dropped.values()) == {"ImageNet classifier"}
    for ours, theirs in report.matched.items():
        assert torch.equal(model.state_dict()[ours], classifier.state_dict()[theirs])


def test_vgg_of_a_detector(trained, tiny_cfg):
    path, _ = trained("vgg16_gn", *VGG11)
    four = ["vgg3", "vgg4", "vgg5", "pool5"]
    cfg = tiny_cfg(
        *(*VGG11, "MODEL.VGG.NORM", "GN", "MODEL.VGG.OUT_FEATURES", four),
        *("MODEL.FPN.IN_FEATURES", four, "MODEL.BACKBONE.NAME", "build_gn_vgg_fpn_backbone"),
        *("MODEL.PIXEL_STD", [57.375, 57.12, 58.395]),
    )
    model = build_model(cfg)
    checkpointer = Checkpointer(model, cfg=cfg)
    checkpointer.load(path)
    assert set(checkpointer.report.matched) == _backbone_names(model, "backbone.bottom_up.")
    assert len(checkpointer.report.matched) == 24


def test_a_classifier_goes_on_with_it_and_one_of_other_classes_takes_the_backbone(trained):
    path, theirs = trained("resnet50_gn", *R18)
    cfg = _classifier("resnet50_gn", *R18)
    model = build_model(cfg)
    checkpointer = Checkpointer(model, cfg=cfg)
    checkpointer.load(path)
    assert checkpointer.report.missing == []
    for name, value in theirs.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    other = build_model(_classifier("resnet50_gn", *R18, "MODEL.CLASSIFIER.NUM_CLASSES", 3))
    checkpointer = Checkpointer(other)
    checkpointer.load(path)
    assert len(checkpointer.report.matched) == 60
    assert {name for name, _, _ in checkpointer.report.shape_mismatch} == {
        "linear.weight",
        "linear.bias",
    }


FRCNN_STD = ["MODEL.PIXEL_STD", [57.375, 57.12, 58.395]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (FRCNN_STD, r"trained with MODEL\.PIXEL_STD \[1.0, 1.0, 1.0\], but it is \[57"),
        (["MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53]], r"trained with MODEL\.PIXEL_MEAN"),
        (["INPUT.FORMAT", "RGB"], "trained on BGR images, but INPUT.FORMAT is RGB"),
        (["MODEL.GN.NUM_GROUPS", 16], "32 groups, but MODEL.GN.NUM_GROUPS is 16"),
        (["MODEL.GN.CHANNELS_PER_GROUP", 16], "32 groups, but MODEL.GN.CHANNELS_PER_GROUP is 16"),
        (["MODEL.RESNETS.NORM", "FrozenBN"], "trained with GN, but MODEL.RESNETS.NORM is 'Fr"),
        (["MODEL.RESNETS.DEPTH", 34], "is a ResNet-18, but MODEL.RESNETS.DEPTH is 34"),
        (["MODEL.GN.WEIGHT_STANDARDIZATION", True], "without Weight Standardization"),
        (
            [
                *("MODEL.BACKBONE.NAME", "build_gn_vgg_fpn_backbone", "MODEL.VGG.NORM", "GN"),
                *("MODEL.VGG.OUT_FEATURES", ["vgg3", "vgg4", "vgg5", "pool5"]),
                *("MODEL.FPN.IN_FEATURES", ["vgg3", "vgg4", "vgg5", "pool5"]),
            ],
            "is a ResNet, but MODEL.BACKBONE.NAME build_gn_vgg_fpn_backbone is a VGG",
        ),
    ],
)
def test_a_detector_that_differs_is_refused(trained, tiny_cfg, options, words):
    path, _ = trained("resnet50_gn", *R18)
    cfg = tiny_cfg(*options)
    with torch.device("meta"):
        model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    checkpointer = Checkpointer(model, cfg=cfg)
    with pytest.raises(WeightsError, match=words):
        checkpointer.load(path)


def test_a_little_of_another_mean_is_warned_of(trained, tiny_cfg, caplog):
    path, _ = trained("resnet50_gn", *R18)
    cfg = tiny_cfg("MODEL.PIXEL_MEAN", [102.9801, 115.9465, 122.7717])
    with caplog.at_level(logging.WARNING, logger="gn_det"):
        Checkpointer(build_model(cfg), cfg=cfg).load(path)
    assert "was trained with MODEL.PIXEL_MEAN [103.53" in caplog.text


@pytest.mark.parametrize(
    ("norm", "options", "fits", "differs", "words"),
    [
        ("bn", [], "FrozenBN", "GN", "trained with BN"),
        ("ln", [], "LN", "GN", "trained with LN"),
        ("in", [], "IN", "LN", "trained with IN"),
        ("gn", ["MODEL.GN.CHANNELS_PER_GROUP", 16], "GN", "FrozenBN", "trained with GN"),
    ],
)
def test_other_norms(trained, tiny_cfg, norm, options, fits, differs, words):
    path, _ = trained(f"resnet50_{norm}", *R18, *options)
    cfg = tiny_cfg(*options, "MODEL.RESNETS.NORM", fits)
    model = build_model(cfg)
    checkpointer = Checkpointer(model, cfg=cfg)
    checkpointer.load(path)
    assert set(checkpointer.report.matched) >= _backbone_names(model, "backbone.bottom_up.")
    cfg = tiny_cfg(*options, "MODEL.RESNETS.NORM", differs)
    with pytest.raises(WeightsError, match=words):
        Checkpointer(build_model(cfg), cfg=cfg).load(path)


def test_groups_are_held_against_the_model_itself(trained, tiny_cfg):
    path, _ = trained("resnet50_gn", *R18, "MODEL.GN.CHANNELS_PER_GROUP", 16)
    with pytest.raises(WeightsError, match="16 channels per group, the model has 2 at backbone"):
        Checkpointer(build_model(tiny_cfg())).load(path)


def test_recognized_by_its_names():
    one = torch.ones(1)
    linear = {"linear.weight": one, "linear.bias": one}
    assert recognize({"backbone.res2.0.conv1.weight": one, **linear}) == "gn_det"
    assert recognize({"backbone.net.weight": one, **linear}) == "gn_det"
    assert recognize({"backbone.res2.0.conv1.weight": one}) == "detectron2"
    assert recognize(linear) is None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50_gn", [*R18, "MODEL.GN.CHANNELS_PER_GROUP", 16]),
        ("resnet50_in", R18),
        ("resnet50_bn", R18),
        ("vgg16_gn", VGG11),
        ("vgg16_bn", VGG11),
        ("vgg16_none", VGG11),
    ],
)
def test_converted_into_weights_alone(trained, tmp_path, name, options):
    path, model = trained(name, *options)
    out = str(tmp_path / "backbone.pkl")
    converted, report = convert_file(path, out)
    assert (report.missing, report.unused, report.shape_mismatch) == ([], [], [])
    again = convert(gn_det.checkpoint.load_file(out))
    assert again.known == converted.known
    assert again.known.depth == (18 if name.startswith("r") else 11)
    assert again.source == "gn_det"
    assert len(again.state) == len(model.state_dict())
