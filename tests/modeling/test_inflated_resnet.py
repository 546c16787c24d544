import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from detectron2.solver import build_optimizer
from torch import nn

import gn_det
from gn_det.config import ConfigError, config_folder
from gn_det.layers import GroupNorm
from gn_det.modeling import pretrain_spec_from_cfg


def _cfg(norm="gn", *options):
    cfg = gn_det.get_cfg()
    cfg.merge_from_file(str(config_folder() / "pretrain" / f"video_resnet18_{norm}.yaml"))
    small = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16]
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *small, "MODEL.GN.NUM_GROUPS", 8, *options])
    return cfg


def _clips(n=2, frames=8):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, 3, frames, 32, 32), generator=rng, dtype=torch.uint8)


@pytest.mark.parametrize("depth", [18, 34])
def test_features(depth):
    keys = ["MODEL.RESNETS.OUT_FEATURES", ["stem", "res2", "res3", "res5"]]
    backbone = build_backbone(_cfg("gn", "MODEL.RESNETS.DEPTH", depth, *keys))
    features = backbone(_clips().float())
    assert {name: tuple(f.shape[1:]) for name, f in features.items()} == {
        "stem": (16, 8, 8, 8),
        "res2": (16, 8, 8, 8),
        "res3": (32, 4, 4, 4),
        "res5": (128, 1, 1, 1),
    }
    shapes = backbone.output_shape()
    assert {name: s.channels for name, s in shapes.items()} == {
        name: f.shape[1] for name, f in features.items()
    }
    kernels = [block.conv1.kernel_size[0] for block in backbone.res2]
    assert kernels == ([3, 1] if depth == 18 else [3, 1, 3])
    assert all(block.conv2.kernel_size == (1, 3, 3) for block in backbone.res5)


@pytest.mark.parametrize(
    ("norm", "cls"),
    [
        ("GN", GroupNorm),
        ("LN", GroupNorm),
        ("IN", GroupNorm),
        ("BN", nn.BatchNorm3d),
        ("SyncBN", nn.SyncBatchNorm),
        ("", type(None)),
    ],
)
def test_norms_by_name(norm, cls):
    backbone = build_backbone(_cfg("gn", "MODEL.RESNETS.NORM", norm))
    convs = [m for m in backbone.modules() if isinstance(m, nn.Conv3d)]
    assert len(convs) == 1 + 16 + 3  # the stem, two in each of eight blocks, three shortcuts
    assert all(type(conv.norm) is cls for conv in convs)
    if norm in ("LN", "IN"):
        groups = {"LN": 1, "IN": 16}[norm]
        assert backbone.stem.conv1.norm.num_groups == groups


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_the_pooling_is_that_of_three_dimensions(layout):
    stem = build_backbone(_cfg()).stem
    with torch.no_grad():
        x = stem.conv1(_clips(frames=3).float()[..., :30]).to(memory_format=layout)
    stem.conv1 = nn.Identity()
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    rectified = nn.functional.relu(inputs[1])
    outputs = (
        stem(inputs[0] * 1),  # in place
        nn.functional.max_pool3d(rectified, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
    )
    assert torch.equal(*outputs)
    weight = torch.arange(outputs[0].numel()).view_as(outputs[0]).sin()
    for y in outputs:
        (y * weight).sum().backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad)


def test_a_clip_of_one_picture_is_that_picture():
    """Where nothing moves and time has no edge, stem and blocks for clips are those for images."""
    backbone = build_backbone(_cfg("bn", "MODEL.GN.ZERO_INIT_RESIDUAL", False)).eval()

    def of_image(conv, x):  # the weights' sum over time is the weight of the image's network
        weight, stride, padding = conv.weight.sum(2), conv.stride[1:], conv.padding[1:]
        x = nn.functional.conv2d(x, weight, stride=stride, padding=padding)
        return conv.norm(x[:, :, None])[:, :, 0]

    with torch.no_grad():
        one = _clips(1, 1).float()
        still = backbone.res2(backbone.stem(one.expand(-1, -1, 7, -1, -1)))
        image = of_image(backbone.stem.conv1, one[:, :, 0]).relu()
        image = nn.functional.max_pool2d(image, 3, 2, 1)
        for block in backbone.res2:
            branch = of_image(block.conv2, of_image(block.conv1, image).relu())
            assert branch.abs().max() > 1
            image = (branch + image).relu()
    for frame in (2, 3, 4):  # two convolutions of three frames away from the edges
        torch.testing.assert_close(still[:, :, frame], image, rtol=1e-4, atol=1e-3)


def test_frames_in_another_order_are_another_clip():
    torch.manual_seed(0)
    backbone = build_backbone(_cfg("gn", "MODEL.GN.ZERO_INIT_RESIDUAL", False))
    clips = _clips().float() / 64
    forwards, backwards = (backbone(c)["res5"] for c in (clips, clips.flip(2)))
    assert not torch.allclose(forwards, backwards, atol=1e-2)


def test_clips_are_normalized_by_themselves():
    backbone = build_backbone(_cfg("gn"))
    clips = _clips(3).float()
    alone = backbone(clips[1:2])["res5"]
    torch.testing.assert_close(backbone(clips)["res5"][1:2], alone, rtol=1e-4, atol=1e-5)


def test_classifier_takes_the_mean_over_time_and_place():
    model = build_model(_cfg("gn", "MODEL.PIXEL_MEAN", [10.0, 20.0, 30.0])).eval()
    clips = _clips(2, 16)
    logits = model({"image": clips})
    pixels = torch.stack([clips[:, c].float() - 10 * (c + 1) for c in range(3)], dim=1) / 52.8
    feature = model.backbone(pixels)["res5"]
    assert feature.shape[2:] == (2, 1, 1)
    expected = feature.flatten(2).sum(2) / 2 @ model.linear.weight.T + model.linear.bias
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    loss = model.train()({"image": clips, "label": torch.tensor([1, 8])})["loss_cls"]
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_residual_branches_start_at_zero_and_norms_are_decayed_as_asked():
    cfg = _cfg("bn", "SOLVER.WEIGHT_DECAY_NORM", 0.5)
    model = build_model(cfg)
    blocks = [*model.backbone.res2, *model.backbone.res5]
    assert all(block.conv2.norm.weight.abs().max() == 0 for block in blocks)
    groups = build_optimizer(cfg, model).param_groups
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d)]
    assert {decay[id(p)] for norm in norms for p in norm.parameters()} == {0.5}


def test_no_clips():
    model = build_model(_cfg("gn")).eval()
    assert model({"image": _clips(0)}).shape == (0, 9)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("MODEL.RESNETS.DEPTH", 50, "DEPTH 18 or 34, not 50"),
        ("MODEL.BACKBONE.FREEZE_AT", 2, "needs MODEL.BACKBONE.FREEZE_AT 0, got 2"),
        ("MODEL.GN.MEMORY", "lean", "needs MODEL.GN.MEMORY standard, got lean"),
        ("MODEL.CHANNELS_LAST", True, "needs MODEL.CHANNELS_LAST False"),
        ("MODEL.GN.WEIGHT_STANDARDIZATION", True, "WEIGHT_STANDARDIZATION False"),
    ],
)
def test_what_is_for_images_alone(key, value, words):
    with pytest.raises(ConfigError, match=words):
        build_backbone(_cfg("gn", key, value))


def test_frozen_bn_is_for_images():
    with pytest.raises(ValueError, match="FrozenBN is for images"):
        build_backbone(_cfg("gn", "MODEL.RESNETS.NORM", "FrozenBN"))


def test_its_weights_are_not_a_detectors():
    known = pretrain_spec_from_cfg(_cfg("gn"))
    assert known.network == "3D ResNet"
    cfg = gn_det.model_zoo.get_config("photo_digits_mask_rcnn_R18_gn_all.yaml")
    (problem,) = gn_det.modeling.check_weights(cfg, known)
    assert "is a 3D ResNet, but MODEL.BACKBONE.NAME" in problem.message
