import dataclasses

import pytest
import torch
from torch import nn

from gn_det.checkpoint import Converted, WeightsError
from gn_det.checkpoint.matching import check_compatible, is_predictor, match
from gn_det.modeling import PretrainSpec


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.ModuleDict({"conv": nn.Linear(2, 3), "bn": nn.BatchNorm1d(3)})
        self.b = nn.ModuleDict({"conv": nn.Linear(2, 3, bias=False)})


def _match(state, **kwargs):
    return match(Converted("test", state, **kwargs), _Model())


def test_the_longest_ending_counts():
    first, second, third = (torch.full((3, 2), float(i)) for i in range(3))
    state = {"a.conv.weight": first, "conv.weight": second, "ight": third}
    found, keys, report = _match(state, names={"a.conv.weight": "theirs"})
    assert found["a.conv.weight"] is first
    assert found["b.conv.weight"] is second
    assert keys == {"a.conv.weight": "a.conv.weight", "b.conv.weight": "conv.weight"}
    assert report.matched["a.conv.weight"] == "theirs"
    assert report.unused == ["ight"]


def test_one_weight_for_two_parameters_is_unused():
    found, _, report = _match({"conv.weight": torch.ones(3, 2)})
    assert found == {}
    assert report.unused == ["conv.weight"]


@pytest.mark.parametrize("prefix", ["model.", "a.detector."])
def test_a_name_in_front_of_all(prefix):
    state = {"a.conv.weight": torch.ones(3, 2), "b.conv.weight": torch.ones(3, 2)}
    inside = {f"{prefix}{name}": value for name, value in state.items()}
    for suffixes in (True, False):
        _, keys, report = _match(inside, suffixes=suffixes)
        assert keys == {name: f"{prefix}{name}" for name in state}
        assert not report.unused
    # names that fit as they are come first
    _, keys, _ = _match({"a.conv.weight": torch.ones(3, 2), "a.a.conv.weight": torch.ones(3, 2)})
    assert keys == {"a.conv.weight": "a.conv.weight"}


def test_a_part_of_a_name_is_no_ending():
    assert _match({"nv.bias": torch.ones(3)})[2].unused == ["nv.bias"]


def test_whole_names_only():
    state = {"a.conv.weight": torch.ones(3, 2), "conv.bias": torch.ones(3)}
    _, keys, _ = _match(state, suffixes=False)
    assert list(keys) == ["a.conv.weight"]
    # without a single whole name, endings are all that there is
    assert list(_match({"conv.bias": torch.ones(3)}, suffixes=False)[1]) == ["a.conv.bias"]


def test_missing_shape_mismatch_and_dropped():
    state = {
        "a.conv.weight": torch.ones(5, 2),
        "x.num_batches_tracked": torch.tensor(3),
        "linear.weight": torch.ones(2),
    }
    found, keys, report = _match(state, dropped={"m": "momentum"})
    assert found == {}
    assert list(keys) == ["a.conv.weight"]
    assert report.shape_mismatch == [("a.conv.weight", (5, 2), (3, 2))]
    assert "a.bn.num_batches_tracked" not in report.missing
    assert "a.bn.running_mean" in report.missing
    assert report.dropped == {
        "m": "momentum",
        "x.num_batches_tracked": "count of training steps",
        "linear.weight": "ImageNet classifier",
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("roi_heads.box_predictor.cls_score.weight", True),
        ("roi_heads.box_predictor.2.bbox_pred.bias", True),
        ("roi_heads.mask_head.predictor.weight", True),
        ("backbone.bottom_up.stem.conv1.weight", False),
        ("roi_heads.box_head.fc1.weight", False),
    ],
)
def test_is_predictor(name, expected):
    assert is_predictor(name) is expected


# -- the same kind of network ------------------------------------------------------------------


def _check(state, model, known=None):
    converted = Converted("test", state, known=known or PretrainSpec())
    _, keys, report = match(converted, model)
    check_compatible(converted, model, keys, report)
    return report


@pytest.fixture(scope="module")
def models(small_cfg, meta_model):
    """Return a function ``*options -> (model, its state)`` on the meta device."""
    made = {}

    def make(*options):
        if options not in made:
            model = meta_model(small_cfg(*options))
            made[options] = model, model.state_dict()
        return made[options]

    return make


FROZEN = ("MODEL.RESNETS.NORM", "FrozenBN")
BN = ("MODEL.RESNETS.NORM", "BN")
NONE = ("MODEL.RESNETS.NORM", "")
R101 = ("MODEL.RESNETS.DEPTH", 101)
WS = ("MODEL.GN.WEIGHT_STANDARDIZATION", True)


@pytest.mark.parametrize(
    ("file", "model", "words"),
    [
        (FROZEN, (), ["the file has BN", "the model has GroupNorm at backbone.bottom_up.stem"]),
        ((), FROZEN, ["the file has GN", "the model has FrozenBatchNorm2d", "no normalization"]),
        ((), NONE, ["the file has a norm at backbone.bottom_up.stem.conv1, the model has none"]),
        (NONE, (), ["the model has a norm at backbone.bottom_up.stem.conv1, the file has none"]),
        (R101, (), ["res4 has 23 blocks in the file and 6 in the model", "DEPTH"]),
        ((), R101, ["res4 has 6 blocks in the file and 23 in the model"]),
        (
            ("MODEL.RESNETS.WIDTH_PER_GROUP", 64),
            (),
            ["res2.0.conv1.weight has the shape (64, 32, 1, 1) in the file and (32, 32, 1, 1)"],
        ),
        (
            ("MODEL.FPN.OUT_CHANNELS", 64),
            (),
            ["fpn_lateral2.weight has the shape (64, 64, 1, 1) in the file and (32, 64, 1, 1)"],
        ),
        (
            ("MODEL.RESNETS.DEPTH", 18),
            ("MODEL.RESNETS.DEPTH", 34),
            ["res2 has 2 blocks in the file and 3"],
        ),
    ],
)
def test_another_network(file, model, words, models):
    with pytest.raises(WeightsError) as error:
        _check(models(*file)[1], models(*model)[0])
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_what_fits(models):
    for options in ((), FROZEN, R101, WS):
        model, state = models(*options)
        assert not _check(state, model).missing
    # statistics fill any BN
    assert not _check(models(*FROZEN)[1], models(*BN)[0]).missing
    # other classes: the predictors stay random, and nothing is refused
    report = _check(models("MODEL.ROI_HEADS.NUM_CLASSES", 9)[1], models()[0])
    assert {name.split(".")[-2] for name, _, _ in report.shape_mismatch} == {
        "cls_score",
        "bbox_pred",
        "predictor",
    }


def test_a_backbone_alone_fits(models):
    model, state = models()
    alone = {name: value for name, value in state.items() if ".bottom_up." in name}
    assert len(_check(alone, model).missing) == len(state) - len(alone)
    heads = {name: value for name, value in state.items() if name.startswith("roi_heads.")}
    assert len(_check(heads, model).matched) == len(heads)


def test_one_layer_too_few(models):
    model, state = models()
    name = "backbone.bottom_up.res3.2.conv2.weight"
    without = {k: v for k, v in state.items() if not k.startswith(name.removesuffix("weight"))}
    with pytest.raises(WeightsError, match=f"the model has {name}, the file does not"):
        _check(without, model)
    more = {**state, "backbone.bottom_up.res3.2.conv4.weight": torch.empty(1, device="meta")}
    with pytest.raises(WeightsError, match="the file has .*conv4.weight, the model does not"):
        _check(more, model)


def test_a_stage_that_the_model_leaves_out(small_cfg, meta_model, models):
    model = meta_model(small_cfg())
    del model.backbone.bottom_up.res5
    _check({k: v for k, v in models()[1].items() if ".bottom_up." in k}, model)


def test_number_of_groups(models):
    model, state = models()
    known = PretrainSpec(norm="GN", num_groups=32)
    _check(state, model, known)
    with pytest.raises(WeightsError, match="trained with 16 groups, the model has 32 at backbone"):
        _check(state, model, dataclasses.replace(known, num_groups=16))


def test_folded_bn(models):
    known = PretrainSpec(norm="FrozenBN")
    _, state = models(*FROZEN)
    _check(state, models(*FROZEN)[0], known)
    with pytest.raises(WeightsError, match="BN folded .* and the model BatchNorm2d"):
        _check(state, models(*BN)[0], known)


@pytest.mark.parametrize("trained", [True, False])
def test_weight_standardization(trained, models):
    known = PretrainSpec(weight_standardization=trained)
    same, other = (models(*WS), models()) if trained else (models(), models(*WS))
    _check(same[1], same[0], known)
    with pytest.raises(WeightsError, match=r"Weight Standardization.*WEIGHT_STANDARDIZATION"):
        _check(same[1], other[0], known)
    # a file that does not say so fits either
    _check(same[1], other[0])


def test_nothing_fits(models):
    with pytest.raises(WeightsError, match="No name in it fits .* such as encoder.weight; the mod"):
        _check({"encoder.weight": torch.ones(1)}, models()[0])


def test_channels_per_group(models):
    model, state = models("MODEL.GN.CHANNELS_PER_GROUP", 8)
    known = PretrainSpec(norm="GN", channels_per_group=8)
    _check(state, model, known)
    with pytest.raises(WeightsError, match="with 8 channels per group, the model has 1 at back"):
        _check(state, models()[0], known)


VGG = ("MODEL.BACKBONE.NAME", "build_gn_vgg_fpn_backbone", "MODEL.VGG.NORM", "GN")
VGG += ("MODEL.VGG.BASE_CHANNELS", 32)
FOUR = ["vgg3", "vgg4", "vgg5", "pool5"]


def test_vgg_of_another_depth(small_cfg, meta_model):
    def make(*options):
        cfg = small_cfg(*VGG, *options)
        cfg.MODEL.VGG.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = FOUR
        return meta_model(cfg)

    model, deeper = make(), make("MODEL.VGG.DEPTH", 19)
    assert not _check(model.state_dict(), model).missing
    with pytest.raises(WeightsError, match=r"vgg3 has 3 blocks in the file and 4 .*VGG\.DEPTH"):
        _check(model.state_dict(), deeper)
    without = {k: v for k, v in model.state_dict().items() if ".vgg4.1." not in k}
    with pytest.raises(WeightsError, match="the model has backbone.bottom_up.vgg4.1.weight, the"):
        _check(without, model)
