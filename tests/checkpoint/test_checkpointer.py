import argparse
import os
import pickle
from collections import deque

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from iopath.common.file_io import HTTPURLHandler, PathHandler, PathManager
from omegaconf import OmegaConf

from gn_det.checkpoint import Checkpointer, WeightsError, load_file, save_converted
from gn_det.checkpoint.converted_state import Converted
from gn_det.config import ConfigError
from gn_det.modeling import PretrainSpec

RGB = PretrainSpec(
    50, "GN", False, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "RGB", None, False
)
RGB_OPTIONS = [
    *("INPUT.FORMAT", "RGB"),
    *("MODEL.PIXEL_MEAN", list(RGB.pixel_mean)),
    *("MODEL.PIXEL_STD", list(RGB.pixel_std)),
]


class _Counter:
    """Something that is saved and resumed with the model."""

    def __init__(self, value=0):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def _snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def _same(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.fixture(scope="module")
def model(small_cfg, small_model):
    return small_model(small_cfg(), seed=1)


@pytest.fixture
def other(small_cfg, small_model):
    return small_model(small_cfg(), seed=2)


def test_save_and_resume(model, other, tmp_path):
    first = Checkpointer(model, str(tmp_path), trainer=_Counter(5))
    first.save("model_0000007", iteration=7)
    second = Checkpointer(other, str(tmp_path), trainer=_Counter())
    assert second.resume_or_load("nowhere.pkl", resume=True) == {"iteration": 7}
    assert second.checkpointables["trainer"].value == 5
    assert _same(other, model.state_dict())


def test_names_of_classes_are_entries_of_the_file(model, other, tmp_path):
    names = {"thing_classes": ["ship", "buoy"], "keypoint_names": ["bow"]}
    Checkpointer(model, str(tmp_path), class_names=names).save("named", iteration=3)
    path = str(tmp_path / "named.pth")
    entries = {**names, "iteration": 3}
    assert Checkpointer(other).load(path) == DetectionCheckpointer(other).load(path) == entries
    assert {k: v for k, v in load_file(path).items() if k != "model"} == entries


def test_a_file_is_checked_before_anything_is_loaded(model, other, tmp_path):
    seen, before = [], _snapshot(other)
    Checkpointer(model, str(tmp_path), trainer=_Counter(5)).save("model_0000007", iteration=7)

    def refuse(path, entries, report, resumed):
        seen.append((path, sorted(entries), len(report.matched), resumed))
        raise ConfigError("not this one")

    checkpointer = Checkpointer(other, str(tmp_path), check_file=refuse, trainer=_Counter())
    path = str(tmp_path / "model_0000007.pth")
    for load in (lambda: checkpointer.load(path), lambda: checkpointer.resume_or_load("")):
        with pytest.raises(ConfigError, match="^not this one$"):
            load()
    number = len(model.state_dict())
    assert seen == [(path, ["iteration", "trainer"], number, r) for r in (False, True)]
    assert checkpointer.checkpointables["trainer"].value == 0
    assert _same(other, before)


def test_weights_alone_when_not_resuming(model, other, tmp_path):
    Checkpointer(model, str(tmp_path), trainer=_Counter(5)).save("start")
    checkpointer = Checkpointer(other, str(tmp_path / "new"), trainer=_Counter())
    checkpointer.resume_or_load(str(tmp_path / "start.pth"), resume=True)
    assert checkpointer.checkpointables["trainer"].value == 0
    assert _same(other, model.state_dict())


def test_nothing_to_load(other):
    before = _snapshot(other)
    checkpointer = Checkpointer(other)
    assert checkpointer.load("") == {}
    assert checkpointer.report is None
    assert _same(other, before)


def test_the_same_as_detectron2s(model, other, small_cfg, small_model, tmp_path):
    path = str(tmp_path / "model.pth")
    torch.save({"model": model.state_dict(), "iteration": 3}, path)
    theirs = small_model(small_cfg(), seed=3)
    assert Checkpointer(other).load(path) == DetectionCheckpointer(theirs).load(path)
    assert _same(other, theirs.state_dict())


def test_entries_of_others_do_not_resume(mmdet_state, random_array, other, small_widths, tmp_path):
    widths = {**small_widths, "classes": 5}
    state = mmdet_state(lambda shape: torch.from_numpy(random_array(shape)), **widths)
    path = str(tmp_path / "epoch_24.pth")
    torch.save({"state_dict": state, "meta": {}, "optimizer": {"value": 9}}, path)
    checkpointer = Checkpointer(other, optimizer=_Counter())
    assert checkpointer.load(path) == {}
    assert checkpointer.checkpointables["optimizer"].value == 0
    assert not checkpointer.report.missing
    assert torch.equal(
        other.backbone.fpn_lateral2.weight, state["neck.lateral_convs.0.conv.weight"]
    )


def test_other_classes_leave_the_predictors(model, small_cfg, small_model, tmp_path, caplog):
    path = str(tmp_path / "model.pth")
    torch.save({"model": model.state_dict()}, path)
    nine = small_model(small_cfg("MODEL.ROI_HEADS.NUM_CLASSES", 9), seed=2)
    before = _snapshot(nine)
    checkpointer = Checkpointer(nine)
    with caplog.at_level("WARNING", "gn_det"):
        checkpointer.load(path)
    left = {name for name, _, _ in checkpointer.report.shape_mismatch}
    assert len(left) == 6
    for name, value in nine.state_dict().items():
        assert torch.equal(value, before[name] if name in left else model.state_dict()[name]), name
    assert "cls_score.weight stays as it was: (6, 48) in the file, (10, 48)" in caplog.text


def test_what_is_missing_is_said(model, other, tmp_path, caplog):
    path = str(tmp_path / "backbone.pth")
    state = {name: v for name, v in model.state_dict().items() if ".bottom_up." in name}
    torch.save({**state, "backbone.extra.weight": torch.ones(1)}, path)
    with caplog.at_level("INFO", "gn_det"):
        Checkpointer(other).load(path)
    assert f"{path}: Detectron2: {len(state)} matched" in caplog.text
    rows = [line.split() for line in caplog.text.splitlines()]
    assert ["backbone.bottom_up.stem", "3", "0", "0"] in rows
    assert ["backbone.fpn", "0", "24", "0"] in rows
    assert ["roi_heads.box_predictor", "0", "4", "0"] in rows
    assert "not in the model: backbone.extra (1)" in caplog.text


@pytest.mark.parametrize("place", ["model", "state_dict"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_of_a_training_with_other_objects(
    place, legacy, model, other, tmp_path, caplog
):
    path = str(tmp_path / "checkpoint.pth.tar")
    content = {
        place: model.state_dict(),
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1),
        "best_acc1": np.float64(70.1),
        "cfg": OmegaConf.create({"lr": 0.1}),
        "history": deque([1.0, 2.0]),
    }
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with caplog.at_level("WARNING", "gn_det"):
        rest = Checkpointer(other).load(path)
    assert _same(other, model.state_dict())
    assert caplog.messages[0] == (
        f"{path}: left out, neither tensors nor plain data: args (argparse.Namespace), "
        "cfg (omegaconf.dictconfig.DictConfig), history (collections.deque)."
    )
    assert rest == ({"epoch": 3, "best_acc1": 70.1} if place == "model" else {})


@pytest.fixture
def rgb_file(model, tmp_path):
    state = {
        name.removeprefix("backbone.bottom_up."): value
        for name, value in model.state_dict().items()
        if ".bottom_up." in name
    }
    path = str(tmp_path / "resnet50_gn.pkl")
    save_converted(Converted("timm", state, known=RGB), path)
    return path


def test_images_in_another_order_are_refused(rgb_file, other, small_cfg):
    before = _snapshot(other)
    with pytest.raises(WeightsError) as error:
        Checkpointer(other, cfg=small_cfg()).load(rgb_file)
    text = str(error.value)
    assert f"{rgb_file} was trained on RGB images, but INPUT.FORMAT is BGR" in text
    assert "was trained with MODEL.PIXEL_STD [58.395" in text
    assert _same(other, before)
    Checkpointer(other, cfg=small_cfg(*RGB_OPTIONS)).load(rgb_file)
    assert not _same(other, before)


def test_frozen_bn_that_a_backbone_file_has_not_is_refused(model, small_cfg, small_model, tmp_path):
    """It would stay the identity. A file of any name, of a pre-training of one's own for one."""
    path = str(tmp_path / "backbone.pth")
    state = {name: v for name, v in model.state_dict().items() if ".bottom_up." in name}
    torch.save({"model": state}, path)
    options = ("MODEL.FPN.NORM", "FrozenBN")
    frozen = small_model(small_cfg(*options))
    before = _snapshot(frozen)
    with pytest.raises(
        WeightsError, match=r"nothing for 32 tensors .* frozen .*: backbone\.fpn \(32\)"
    ):
        Checkpointer(frozen, cfg=small_cfg(*options)).load(path)
    assert _same(frozen, before)
    meant = small_cfg(*options, "MODEL.GN.ALLOW_FROZEN_RANDOM", True)
    Checkpointer(frozen, cfg=meant).load(path)
    assert not _same(frozen, before)

    whole = str(tmp_path / "whole.pth")
    torch.save({"model": frozen.state_dict()}, whole)
    Checkpointer(frozen, cfg=small_cfg(*options)).load(whole)


def test_a_mean_that_hardly_differs_is_a_warning(rgb_file, other, small_cfg, caplog):
    options = [*RGB_OPTIONS, "MODEL.PIXEL_MEAN", [124.0, 116.5, 103.9]]
    with caplog.at_level("WARNING", "gn_det"):
        Checkpointer(other, cfg=small_cfg(*options)).load(rgb_file)
    assert "was trained with MODEL.PIXEL_MEAN" in caplog.text


def test_a_refused_file_changes_nothing(model, small_cfg, small_model, tmp_path):
    path = str(tmp_path / "gn.pth")
    torch.save({"model": model.state_dict(), "iteration": 3}, path)
    frozen = small_model(small_cfg("MODEL.RESNETS.NORM", "FrozenBN"))
    before = _snapshot(frozen)
    checkpointer = Checkpointer(frozen, trainer=_Counter())
    for _ in range(2):  # and the next load works as the first one did
        with pytest.raises(WeightsError, match="gn.pth: Its norms do not fit") as error:
            checkpointer.load(path)
        assert "\n" not in str(error.value)
    assert checkpointer.report is None
    assert _same(frozen, before)


def test_missing_file(other):
    with pytest.raises(FileNotFoundError, match="'nowhere.pkl' does not exist"):
        Checkpointer(other).load("nowhere.pkl")


class _Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_file_runs_no_code(other, tmp_path):
    target = tmp_path / "made"
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": _Hostile(str(target))}}))
    with pytest.raises(WeightsError, match="mkdir"):
        Checkpointer(other).load(str(path))
    assert not target.exists()


def test_a_web_page_does_not_stay_in_the_cache(other, tmp_path, monkeypatch):
    page = tmp_path / "R-50-GN.pkl"
    page.write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    monkeypatch.setattr(HTTPURLHandler, "_get_local_path", lambda self, path, **kw: str(page))
    with pytest.raises(WeightsError):
        Checkpointer(other).load("https://example.com/R-50-GN.pkl")
    assert not page.exists()


def test_heuristics_in_the_path(model, other, tmp_path):
    # a whole head's name beside bare ones: without the query, names count as they are
    state = {
        name.removeprefix("backbone.bottom_up."): value
        for name, value in model.state_dict().items()
        if not name.startswith(("backbone.fpn", "proposal_generator"))
    }
    path = str(tmp_path / "mixed.pth")
    torch.save(state, path)
    Checkpointer(other).load(f"{path}?matching_heuristics=True")
    weight = model.backbone.bottom_up.stem.conv1.weight
    assert torch.equal(other.backbone.bottom_up.stem.conv1.weight, weight)


def test_an_address_with_a_handler_of_the_users_own(model, other, small_cfg, lab):
    """As Detectron2's checkpointer reads it."""
    torch.save({"model": model.state_dict(), "iteration": 3}, lab / "w.pth")
    assert Checkpointer(other, cfg=small_cfg()).load("lab://w.pth") == {"iteration": 3}
    assert _same(other, model.state_dict())
    with pytest.raises(WeightsError, match="lab://nothing.pth: what it leads to, .*, is no file"):
        Checkpointer(other).load("lab://nothing.pth")


def test_a_path_manager_of_the_checkpointers_own(model, other, tmp_path):
    """As in Detectron2's test_custom_path_manager_handler."""
    torch.save({"model": model.state_dict()}, tmp_path / "w.pth")

    class Handler(PathHandler):
        def _get_supported_prefixes(self):
            return ["own://"]

        def _get_local_path(self, path, force=False, **kwargs):
            return str(tmp_path / path.removeprefix("own://"))

    checkpointer = Checkpointer(other)
    with pytest.raises(WeightsError, match="no handler of own://"):
        checkpointer.load("own://w.pth")
    checkpointer.path_manager = PathManager()
    checkpointer.path_manager.register_handler(Handler())
    checkpointer.load("own://w.pth")
    assert _same(other, model.state_dict())
