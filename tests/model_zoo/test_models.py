import pytest
import torch
from detectron2.modeling import build_model

from gn_det import model_zoo
from gn_det.config import ConfigError

GN_ALL = "mask_rcnn_R50_gn_all.yaml"


def test_trained_config_has_the_published_weights():
    cfg = model_zoo.get_config(GN_ALL, trained=True)
    assert model_zoo.published(GN_ALL).weights == cfg.MODEL.WEIGHTS
    assert "/48616381/" in cfg.MODEL.WEIGHTS
    assert model_zoo.get_config(GN_ALL).MODEL.WEIGHTS != cfg.MODEL.WEIGHTS


def test_weights_are_of_the_model_that_the_entry_names():
    entries = [entry for entry in model_zoo.zoo().values() if entry.weights]
    assert len(entries) == 6
    for entry in entries:
        assert f"/{entry.detectron['id']}/" in entry.weights
        depth = entry.name.split("_")[2].removeprefix("R")
        assert f"R-{depth}-FPN" in entry.weights


@pytest.mark.parametrize("name", ["mask_rcnn_R50_C4_gn", "photo_digits_mask_rcnn_R18_gn_all.yaml"])
def test_config_without_a_published_model(name):
    with pytest.raises(ConfigError, match=f"No model of {name} .*{GN_ALL}"):
        model_zoo.get(name)


def test_random_model():
    model = model_zoo.get("photo_digits_mask_rcnn_R18_gn_all", trained=False, device="cpu")
    assert model.training
    assert next(model.parameters()).device == torch.device("cpu")


def test_trained_model(monkeypatch, tmp_path):
    """The address stands for a file that is made here: nothing is downloaded."""
    torch.manual_seed(0)
    cfg = model_zoo.get_config(GN_ALL)
    cfg.MODEL.DEVICE = "cpu"
    there = build_model(cfg)
    path = tmp_path / "model_final.pth"
    torch.save({"model": there.state_dict()}, path)
    monkeypatch.setattr(
        "gn_det.model_zoo.models.get_config",
        lambda name, trained: _at(model_zoo.get_config(name, trained=trained), str(path)),
    )
    model = model_zoo.get(GN_ALL, device="cpu")
    assert not model.training
    for key, value in there.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def _at(cfg, path):
    assert "/48616381/" in cfg.MODEL.WEIGHTS
    cfg.MODEL.WEIGHTS = path
    return cfg
