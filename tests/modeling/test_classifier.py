import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from torch import nn

import gn_det
from gn_det.config import ConfigError, config_folder
from gn_det.modeling import ImageClassifier

SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.CLASSIFIER.NUM_CLASSES", 7, "MODEL.RESNETS.DEPTH", 18),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
]


@pytest.fixture(scope="module")
def make():
    """Return a function ``*options -> cfg`` of a small classifier with the paper's recipe."""

    def build(*options, name="resnet50_gn"):
        cfg = gn_det.get_cfg()
        cfg.merge_from_file(str(config_folder() / "pretrain" / f"{name}.yaml"))
        cfg.merge_from_list([*SMALL, *options])
        return cfg

    return build


@pytest.fixture(scope="module")
def model(make):
    torch.manual_seed(0)
    return build_model(make())


def _batch(n=2):
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 3, 64, 64), generator=rng, dtype=torch.uint8)
    return {"image": images, "label": torch.arange(n) % 7}


def test_logits_are_the_mean_feature_times_the_classifier(model):
    batch = _batch()
    logits = model.eval()(batch)
    mean = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
    feature = model.backbone(batch["image"].float() - mean)["res5"]
    expected = feature.flatten(2).sum(2) / 4 @ model.linear.weight.T + model.linear.bias
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    loss = model.train()(batch)
    assert list(loss) == ["loss_cls"]
    by_hand = [row.logsumexp(0) - row[label] for row, label in zip(expected, batch["label"])]
    torch.testing.assert_close(loss["loss_cls"], sum(by_hand) / 2, rtol=1e-4, atol=1e-5)


def test_it_starts_at_chance(model):
    # a small classifier and no bias: Goyal et al.
    assert model.linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert model.linear.bias.abs().max() == 0
    loss = model.train()(_batch(7))["loss_cls"].item()
    assert loss == pytest.approx(math.log(7), abs=0.1)


def test_residual_branches_start_at_zero(model):
    for stage in (model.backbone.res2, model.backbone.res5):
        assert all(block.conv2.norm.weight.abs().max() == 0 for block in stage)
        assert all(block.conv1.norm.weight.min() == 1 for block in stage)


def test_all_weights_are_decayed_as_the_paper_has_it(make, model):
    optimizer = build_optimizer(make(), model)
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert len(decay) == len(list(model.parameters()))
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 20
    assert {decay[id(p)] for norm in norms for p in norm.parameters()} == {1e-4}
    assert set(decay.values()) == {1e-4}
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


def test_vgg(make):
    small = ["MODEL.VGG.BASE_CHANNELS", 32, "MODEL.VGG.DEPTH", 11]
    model = build_model(make(*small, name="vgg16_gn"))
    assert isinstance(model, ImageClassifier)
    assert model.linear.in_features == 256
    assert model.train()(_batch())["loss_cls"].isfinite()


def test_no_images(model):
    assert model.eval()(_batch(0)).shape == (0, 7)


def test_preprocessing_is_not_saved(model):
    assert not {"pixel_mean", "pixel_std"} & set(model.state_dict())


@pytest.mark.parametrize(
    "options",
    [
        ["MODEL.RESNETS.OUT_FEATURES", ["res4", "res5"]],
        [
            *("MODEL.BACKBONE.NAME", "build_gn_resnet_fpn_backbone"),
            *("MODEL.RESNETS.OUT_FEATURES", ["res5"], "MODEL.FPN.IN_FEATURES", ["res5"]),
        ],
    ],
)
def test_several_feature_maps(make, options):
    with pytest.raises(ConfigError, match="one feature map; this one has .*OUT_FEATURES"):
        build_model(make(*options))
