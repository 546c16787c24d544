"""The look at a config's model: what it sees, and that nobody sees it look."""

import random

import numpy as np
import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, build_model
from torch import nn

from gn_det.config import ConfigError
from gn_det.layers import GroupNorm
from gn_det.modeling import check_config, find_problems
from gn_det.modeling.inspect import BuildError, look_at


def test_norms_are_seen(tiny_cfg):
    look = look_at(tiny_cfg("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.GN.NUM_GROUPS", 8))
    assert all(tensor.is_meta for tensor in look.model.parameters())
    stem = look.norms["backbone.bottom_up.stem.conv1.norm"]
    assert (stem.kind, stem.channels, stem.groups) == (FrozenBatchNorm2d, 64, None)
    assert stem.owner.__name__ == "BasicStem"
    lateral = look.norms["backbone.fpn_lateral2.norm"]
    assert (lateral.kind, lateral.channels, lateral.groups) == (GroupNorm, 64, 8)
    assert lateral.owner.__name__ == "FPN"
    assert lateral.in_backbone
    box = look.norms["roi_heads.box_head.conv1.norm"]
    assert box.owner.__name__ == "GNFastRCNNConvFCHead"
    assert not box.in_backbone
    # R18 has 20 convolutions with a norm, the FPN twice four, the heads four each
    assert len(look.norms) == 20 + 8 + 4 + 4


def test_frozen_parameters_are_seen(tiny_cfg):
    assert look_at(tiny_cfg()).frozen == set()
    frozen = look_at(tiny_cfg("MODEL.BACKBONE.FREEZE_AT", 1)).frozen
    assert frozen == {
        f"backbone.bottom_up.stem.conv1.{name}" for name in ("weight", "norm.weight", "norm.bias")
    }


def test_keys_that_are_read(tiny_cfg):
    keys = ["MODEL.FPN.NORM", "MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NORM"]
    look = look_at(tiny_cfg())
    assert sorted(look.norm_keys()) == sorted(["MODEL.RESNETS.NORM", *keys])
    assert look.read["MODEL.RESNETS.DEPTH"] == 18
    assert "MODEL.VGG.DEPTH" not in look.read
    assert keys[2] not in look_at(tiny_cfg("MODEL.MASK_ON", False)).read


@pytest.mark.parametrize("name", ["GN", "BN", "FrozenBN"])
def test_norms_of_a_key(tiny_cfg, name):
    look = look_at(tiny_cfg("MODEL.ROI_BOX_HEAD.NORM", name))
    expected = {f"roi_heads.box_head.conv{number}.norm" for number in (1, 2, 3, 4)}
    assert look.norms_of("MODEL.ROI_BOX_HEAD.NORM") == expected
    wanted = [*expected, "backbone.fpn_lateral2.norm"]
    assert look.keys_of(wanted, ["GN", "BN", "FrozenBN"]) == {
        "MODEL.ROI_BOX_HEAD.NORM": expected,
        "MODEL.FPN.NORM": {"backbone.fpn_lateral2.norm"},
    }


def test_a_norm_that_no_key_makes(tiny_cfg, monkeypatch):
    class WithNorm(META_ARCH_REGISTRY.get("GeneralizedRCNN")):
        def __init__(self, cfg):
            super().__init__(cfg)
            self.extra = nn.GroupNorm(2, 4)

    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "WithNorm", WithNorm)
    look = look_at(tiny_cfg("MODEL.META_ARCHITECTURE", "WithNorm"))
    assert look.norms["extra"].groups == 2
    assert look.keys_of(["extra"], ["GN"]) == {}


def test_config_and_random_states_stay(tiny_cfg):
    cfg = tiny_cfg()
    before = cfg.dump()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    look = look_at(cfg, {"MODEL.FPN.NORM": ""})
    check_config(cfg)
    assert cfg.dump() == before
    assert not cfg.is_frozen()
    assert look.cfg.MODEL.FPN.NORM == ""
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_checked_model_has_the_same_bits(tiny_cfg):
    cfg, models = tiny_cfg(), []
    for check in (False, True):
        torch.manual_seed(0)
        if check:
            check_config(cfg)
        models.append(build_model(cfg).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(models[0].values(), models[1].values()))


class NeedsValues(nn.Module):
    """Looks at values, and draws random numbers of each kind, while it is built."""

    def __init__(self, cfg):
        super().__init__()
        self.width = int(torch.randint(3, 4, ()).item()) + int(random.random() + np.random.rand())
        self.norm = nn.GroupNorm(1, 3)


def test_code_that_needs_values_is_built_on_the_cpu(tiny_cfg, monkeypatch):
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "NeedsValues", NeedsValues)
    cfg = tiny_cfg("MODEL.META_ARCHITECTURE", "NeedsValues")
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    look = look_at(cfg)
    assert look.norms["norm"].channels == 3
    assert not look.model.norm.weight.is_meta
    (unread,) = find_problems(cfg)  # a model of one norm reads few keys
    assert not unread.fatal
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_what_cannot_be_built_here_is_a_warning(tiny_cfg, monkeypatch):
    def refuse(cfg, input_shape):
        raise RuntimeError(f"no process group for {cfg.MODEL.RESNETS.DEPTH} layers")

    monkeypatch.setitem(BACKBONE_REGISTRY._obj_map, "build_refuse", refuse)
    cfg = tiny_cfg("MODEL.BACKBONE.NAME", "build_refuse")
    with pytest.raises(BuildError, match="no process group"):
        look_at(cfg)
    (problem,) = find_problems(cfg)
    assert not problem.fatal
    assert "RuntimeError: no process group for 18 layers" in problem.message
    assert "MODEL.RESNETS.DEPTH were read last" in problem.message


def test_a_config_error_is_passed_on(tiny_cfg, monkeypatch):
    def refuse(cfg, input_shape):
        raise ConfigError("MODEL.MINE.SIZE is 3: an even number.")

    monkeypatch.setitem(BACKBONE_REGISTRY._obj_map, "build_refuse", refuse)
    with pytest.raises(ConfigError, match=r"^MODEL.MINE.SIZE is 3: an even number.$"):
        check_config(tiny_cfg("MODEL.BACKBONE.NAME", "build_refuse"))
