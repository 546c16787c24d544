import pickle

import pytest
import torch

from gn_det.checkpoint import Checkpointer, convert
from gn_det.checkpoint.matching import match
from gn_det.checkpoint.sources import detectron2


@pytest.fixture(scope="module")
def trained(small_cfg, small_model):
    return small_model(small_cfg(), seed=1)


def _arrays(state):
    return {name: value.numpy() for name, value in state.items()}


WRITERS = {
    "checkpoint.pth": lambda s, f: torch.save({"model": s, "iteration": 7}, f),
    "bare.pth": lambda s, f: torch.save(s, f),
    "ddp.pth": lambda s, f: torch.save({f"module.{k}": v for k, v in s.items()}, f),
    "zoo.pkl": lambda s, f: pickle.dump({"model": _arrays(s), "__author__": "Detectron2"}, f),
    "heuristics.pkl": lambda s, f: pickle.dump(
        {"model": _arrays(s), "__author__": "x", "matching_heuristics": True}, f
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_round_trip_is_bit_identical(name, trained, small_cfg, small_model, tmp_path):
    state = trained.state_dict()
    with open(tmp_path / name, "wb") as f:
        WRITERS[name](state, f)
    other = small_model(small_cfg(), seed=2)
    checkpointer = Checkpointer(other)
    rest = checkpointer.load(str(tmp_path / name))
    assert rest.get("iteration") == (7 if name == "checkpoint.pth" else None)
    for key, value in other.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert checkpointer.report.source == "Detectron2"
    assert not checkpointer.report.missing
    assert not checkpointer.report.unused


@pytest.mark.parametrize("prefix", ["", "bottom_up."])
def test_backbone_alone(prefix, trained):
    start = "backbone.bottom_up."
    state = {
        prefix + name.removeprefix(start): value
        for name, value in trained.state_dict().items()
        if name.startswith(start)
    }
    # what Detectron2's converter of torchvision's models leaves
    state.update({"stem.fc.weight": torch.ones(2, 2), "stem.fc.bias": torch.ones(2)})
    found, _, report = match(convert(state), trained)
    assert {start + name.removeprefix(prefix) for name in report.matched.values()} == set(found)
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in found.items())
    assert not [name for name in report.missing if name.startswith(start)]
    assert not report.unused
    assert set(report.dropped) == {"stem.fc.weight", "stem.fc.bias"}


def test_buffers_of_old_checkpoints_are_left_out(trained):
    old = {
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
        "pixel_mean": torch.zeros(3, 1, 1),
        "pixel_std": torch.zeros(3, 1, 1),
    }
    _, _, report = match(convert({"model": {**trained.state_dict(), **old}}), trained)
    assert set(report.dropped) == set(old)
    assert not report.unused


def test_names_of_a_whole_model_are_taken_as_they_are(trained):
    assert not detectron2.convert(trained.state_dict()).suffixes
    assert detectron2.convert({"res2.0.conv1.weight": torch.ones(1)}).suffixes
