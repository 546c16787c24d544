"""What a file leaves random: refused where training does not change it, whatever the file is."""

import argparse
import pickle

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import Backbone, build_model
from detectron2.modeling.backbone import FPN
from torch import nn

from gn_det.checkpoint import Checkpointer, WeightsError, check_weights_file
from gn_det.modeling.weights_fit import backbone_tensors, frozen_tensors

VGG = [
    *("MODEL.BACKBONE.NAME", "build_gn_vgg_fpn_backbone"),
    *("MODEL.VGG.NORM", "GN"),
    *("MODEL.VGG.DEPTH", 11),
    *("MODEL.VGG.BASE_CHANNELS", 32),
    *("MODEL.VGG.OUT_FEATURES", ["vgg3", "vgg4", "vgg5", "pool5"]),
    *("MODEL.FPN.IN_FEATURES", ["vgg3", "vgg4", "vgg5", "pool5"]),
]
RETINANET = [
    *("MODEL.META_ARCHITECTURE", "RetinaNet"),
    *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"),
    *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.RETINANET.NUM_CLASSES", 5),
]
KEYPOINTS = ["MODEL.KEYPOINT_ON", True, "MODEL.MASK_ON", False]
KEYPOINTS += ["MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [16]]
C4 = {"c4": True}
FREE = ["MODEL.BACKBONE.FREEZE_AT", 0]
FROZEN = ["MODEL.BACKBONE.FREEZE_AT", 2]
FROZEN_BN = [*FROZEN, "MODEL.RESNETS.NORM", "FrozenBN"]


@pytest.fixture(scope="module")
def load(tiny_cfg, tmp_path_factory):
    """Return a function that saves a state, loads it, and gives the report."""
    folder = tmp_path_factory.mktemp("fit")

    def run(state, *options, name="file.pth", **kwargs):
        path = str(folder / name)
        if name.endswith(".pkl"):
            arrays = {key: value.numpy() for key, value in state.items()}
            (folder / name).write_bytes(pickle.dumps(arrays))
        else:
            torch.save(state, path)
        cfg = tiny_cfg(*options, **kwargs)
        errors = []
        checkpointer = Checkpointer(build_model(cfg), cfg=cfg)
        for check in (checkpointer.load, lambda path: check_weights_file(path, cfg)):
            try:
                check(path)
            except WeightsError as error:
                errors.append(str(error))
        assert len(errors) in (0, 2)
        assert len(set(errors)) <= 1  # both say the same
        if errors:
            assert checkpointer.report is None
            raise WeightsError(errors[0])
        return checkpointer.report

    return run


@pytest.fixture(scope="module")
def state_of(tiny_cfg):
    return lambda *options, **kwargs: dict(build_model(tiny_cfg(*options, **kwargs)).state_dict())


def _without(state, *prefixes):
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}


BELOW = "backbone.bottom_up."
MODELS = [
    pytest.param(FROZEN, {}, "bottom_up.res2", BELOW, id="GN"),
    pytest.param(FROZEN_BN, {}, "bottom_up.res2", BELOW, id="FrozenBN"),
    pytest.param(FROZEN, C4, "backbone.res2", "backbone.", id="C4"),
    pytest.param([*FROZEN, *VGG], {}, "bottom_up.vgg1", BELOW, id="VGG"),
    pytest.param([*FROZEN, *RETINANET], {}, "bottom_up.res2", BELOW, id="RetinaNet"),
    pytest.param([*FROZEN, *KEYPOINTS], {}, "bottom_up.res2", BELOW, id="keypoints"),
]


@pytest.mark.parametrize(("options", "kwargs", "frozen", "backbone"), MODELS)
def test_frozen_and_backbone(options, kwargs, frozen, backbone, state_of, load):
    state = state_of(*options, **kwargs)
    assert not load(state, *options, **kwargs).unfilled
    # the first frozen stage lacks: other names, as those of another project are
    first = {name: value for name, value in state.items() if frozen in name}
    assert first
    rest = {name: value for name, value in state.items() if name not in first}
    with pytest.raises(WeightsError) as error:
        load(rest, *options, **kwargs)
    lines = str(error.value).splitlines()
    assert f"nothing for {len(first)} tensors that are frozen in the model:" in lines[0]
    assert f"{frozen} ({len(first)})" in lines[0]
    assert "Set MODEL.GN.ALLOW_FROZEN_RANDOM True (in a Python config train.allow_f" in lines[0]
    assert any(line.split()[-3:] == ["0", str(len(first)), "0"] for line in lines)
    meant = ["MODEL.GN.ALLOW_FROZEN_RANDOM", True]
    assert len(load(rest, *options, *meant, **kwargs).missing) == len(first)
    # nothing is frozen, and the backbone is missing
    options = [*options, *FREE, "MODEL.RESNETS.NORM", "GN"]
    heads = _without(state, backbone, "roi_heads.res5")
    with pytest.raises(
        WeightsError, match=r"fills none of the \d+ tensors of the backbone"
    ) as error:
        load(heads, *options, **kwargs)
    assert "Set MODEL.GN.ALLOW_RANDOM_BACKBONE True" in str(error.value)
    meant = ["MODEL.GN.ALLOW_RANDOM_BACKBONE", True]
    assert load(heads, *options, *meant, **kwargs).matched


def test_both_keys_are_named_at_once(state_of, load):
    heads = _without(state_of(*FROZEN), BELOW)
    with pytest.raises(WeightsError, match="fills none .* tensors that are frozen") as error:
        load(heads, *FROZEN)
    keys = ["MODEL.GN.ALLOW_RANDOM_BACKBONE", "MODEL.GN.ALLOW_FROZEN_RANDOM"]
    assert all(f"{key} True" in str(error.value) for key in keys)
    for key in keys:
        with pytest.raises(WeightsError) as error:
            load(heads, *FROZEN, key, True)
        assert [k for k in keys if k in str(error.value)] == [k for k in keys if k != key]


@pytest.mark.parametrize("options", [FROZEN, [*FROZEN, "MODEL.GN.ALLOW_FROZEN_RANDOM", True]])
def test_a_whole_model_is_asked_for(options, state_of, tiny_cfg, tmp_path):
    """An evaluation can neither train what is frozen nor mean it to be random."""
    torch.save(_without(state_of(*FROZEN), BELOW + "res2"), tmp_path / "part.pth")
    cfg = tiny_cfg(*options)
    checkpointer = Checkpointer(build_model(cfg), cfg=cfg)
    checkpointer.whole = True
    with pytest.raises(WeightsError, match="random in the evaluation") as error:
        checkpointer.load(str(tmp_path / "part.pth"))
    assert not [word for word in ("FREEZE_AT", "ALLOW_") if word in str(error.value)]


@pytest.mark.parametrize("name", ["file.pth", "file.pkl", "file.pyth", "a.pth.tar"])
def test_whatever_the_file_is_called(name, state_of, load):
    heads = _without(state_of(), "backbone.bottom_up.")
    with pytest.raises(WeightsError, match="fills none"):
        load(heads, name=name)


def test_a_few_names_that_fit_by_chance(state_of, load):
    """Less than a tenth of the backbone is no backbone; a whole stage less is one."""
    state = state_of()
    few = {
        name: value
        for name, value in state.items()
        if not name.startswith("backbone.bottom_up.res")
    }
    with pytest.raises(WeightsError, match="fills 3 of the 60 tensors of the backbone"):
        load(few)
    assert len(load(_without(state, "backbone.bottom_up.res5")).missing) == 15


@pytest.mark.parametrize("prefix", ["encoder.", "model.", "backbone.", "backbone.backbone."])
def test_a_backbone_below_another_name(prefix, state_of, load):
    state = state_of()
    inner = "backbone.bottom_up."
    backbone = {n.replace(inner, prefix): v for n, v in state.items() if n.startswith(inner)}
    if prefix == "backbone.":  # as checkpoints of pre-training have it
        backbone |= {"linear.weight": torch.ones(2, 2), "linear.bias": torch.ones(2)}
        report = load(backbone)
        assert len(report.matched) == 60
        return
    with pytest.raises(WeightsError, match="No name in it fits the model"):
        load(backbone)
    # beside heads that fit
    heads = _without(state, inner)
    with pytest.raises(WeightsError, match="fills none of the 60 tensors of the backbone"):
        load({**backbone, **heads})


def test_a_norm_without_its_statistics(state_of, load):
    state = state_of(*FROZEN_BN)
    name = "backbone.bottom_up.res2.0.conv1.norm.running_var"
    with pytest.raises(WeightsError, match=r"frozen .*bottom_up\.res2 \(1\)"):
        load({n: v for n, v in state.items() if n != name}, *FROZEN_BN)


def test_without_a_config_all_may_stay(state_of, tiny_cfg, tmp_path, caplog):
    path = str(tmp_path / "heads.pth")
    torch.save(_without(state_of(), "backbone.bottom_up."), path)
    Checkpointer(build_model(tiny_cfg(*FROZEN))).load(path)
    messages = [m for m in caplog.messages if "heads.pth: It " in m]
    assert ["fills none of the 60" in messages[0], "are frozen" in messages[1]] == [True, True]


def test_a_file_is_checked_without_a_word(state_of, tiny_cfg, tmp_path, caplog):
    """What is unusual is logged once: by the load that follows."""
    path = str(tmp_path / "heads.pth")
    torch.save({**_without(state_of(), "backbone.bottom_up."), "args": argparse.Namespace()}, path)
    check_weights_file(path, tiny_cfg(*FREE, "MODEL.GN.ALLOW_RANDOM_BACKBONE", True))
    assert caplog.messages == []
    check_weights_file("", tiny_cfg())
    with pytest.raises(FileNotFoundError, match=r"'nowhere\.pth' does not exist"):
        check_weights_file("nowhere.pth", tiny_cfg())
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"empty\.pth: it is empty"):
        check_weights_file(str(tmp_path / "empty.pth"), tiny_cfg())
    torch.save({"optimizer": {"state": {0: torch.ones(1)}}}, path)
    with pytest.raises(WeightsError, match="It holds no weights; its entries are 'optimizer'"):
        check_weights_file(path, tiny_cfg())


# -- what is looked at -------------------------------------------------------------------------


class _Stem(Backbone):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 2, 1), FrozenBatchNorm2d(2)
        self.bn = nn.BatchNorm2d(2)
        self.register_buffer("index", torch.zeros(1))  # computed by code, not random
        self.register_buffer("hidden", torch.zeros(1), persistent=False)
        self._out_features, self._out_feature_strides = ["x"], {"x": 1}
        self._out_feature_channels = {"x": 2}
        self.conv.bias.requires_grad = False

    def forward(self, x):
        return {"x": self.conv(x)}


def test_what_is_frozen():
    model = nn.ModuleDict({"backbone": _Stem(), "head": nn.Linear(2, 2)})
    norm = {f"backbone.norm.{n}" for n in ("weight", "bias", "running_mean", "running_var")}
    assert frozen_tensors(model) == {"backbone.conv.bias"} | norm
    model["backbone"].bn.requires_grad_(False)
    assert frozen_tensors(model) == {"backbone.conv.bias", *norm} | {
        "backbone.bn.weight",
        "backbone.bn.bias",
    }
    assert frozen_tensors(FrozenBatchNorm2d(2)) == {"weight", "bias", "running_mean", "running_var"}


def test_what_the_backbone_is():
    stem = _Stem()
    own = [name for name in stem.state_dict() if "num_batches" not in name]
    assert backbone_tensors(stem) == own
    fpn = FPN(stem, ["x"], 4)
    assert backbone_tensors(fpn) == [f"bottom_up.{name}" for name in own]
    model = nn.ModuleDict({"backbone": fpn, "head": nn.Linear(2, 2)})
    assert backbone_tensors(model) == [f"backbone.bottom_up.{name}" for name in own]
    assert backbone_tensors(nn.Linear(2, 2)) == []


def test_a_model_without_a_backbone_of_detectron2s(tmp_path, tiny_cfg):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    path = str(tmp_path / "one.pth")
    torch.save({"0.weight": torch.ones(2, 2)}, path)
    Checkpointer(model, cfg=tiny_cfg()).load(path)
    assert torch.equal(model[0].weight, torch.ones(2, 2))
