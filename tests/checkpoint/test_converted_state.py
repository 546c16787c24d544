import pytest
import torch

import gn_det
from gn_det.checkpoint import Converted, PretrainMetadata, WeightsError, convert
from gn_det.checkpoint.converted_state import (
    metadata_from_dict,
    metadata_to_dict,
    norm_of_names,
)
from gn_det.config import config_folder
from gn_det.modeling import PretrainSpec, check_weights
from gn_det.modeling.pretrain_spec import PUBLISHED_SPECS


def test_norm():
    assert norm_of_names(["stem.conv1.weight"]) is None
    assert norm_of_names(["stem.conv1.norm.weight"]) == "GN"
    assert norm_of_names(["res2.0.conv1.norm.weight", "res2.0.conv1.norm.running_mean"]) == "BN"
    assert norm_of_names(["roi_heads.box_head.conv1.norm.weight"]) is None


@pytest.mark.parametrize("known", [PretrainSpec(), *PUBLISHED_SPECS.values()])
def test_metadata_round_trip(known):
    values = metadata_to_dict(known, "timm")
    assert values["source"] == "timm"
    assert not any(isinstance(value, tuple) for value in values.values())
    assert metadata_from_dict(values) == known
    assert metadata_from_dict({**values, "a later key": 1}) == known


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("depth", "50"),
        ("depth", True),
        ("stride_in_1x1", 1),
        ("pixel_mean", [1.0, 2.0]),
        ("pixel_std", ["1", "2", "3"]),
        ("input_format", b"RGB"),
    ],
)
def test_metadata_of_another_kind(key, value):
    with pytest.raises(WeightsError, match=f"'gn_det' has the {key} "):
        metadata_from_dict({key: value})


def test_one_channel():
    known = PretrainSpec(pixel_mean=(114.0,), pixel_std=(57.0,), input_format="L")
    assert metadata_from_dict(metadata_to_dict(known, "gn_det")) == known


@pytest.mark.parametrize(
    ("mean", "std", "image_format", "window"),
    [
        ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT", "INPUT.WINDOW"),
        (
            "model.pixel_mean",
            "model.pixel_std",
            "model.input_format",
            "dataloader.train.mapper.window",
        ),
    ],
)
def test_a_record_of_a_run_says_how_images_were_read(mean, std, image_format, window):
    record = {mean: [1.0, 2.0, 3.0], std: [1, 1, 1], image_format: "RGB", window: [0, "99%"]}
    weights = {"stem.conv1.weight": torch.zeros(2, 2)}
    known = convert({"model": weights, "config": record}).known
    assert known == PretrainSpec(
        pixel_mean=(1.0, 2.0, 3.0), pixel_std=(1, 1, 1), input_format="RGB", window=(0, "99%")
    )
    # entries of the same name in files of other projects
    for other in ({mean: "x", std: None, image_format: 3, window: [1]}, {}, "text", None):
        assert convert({"model": weights, "config": other}).known == PretrainSpec()


def test_metadata_is_no_dict():
    with pytest.raises(WeightsError, match="'gn_det' is a list, not a dict"):
        metadata_from_dict([])


def test_name_in_file():
    converted = Converted("x", {}, {"a": "b"})
    assert (converted.name_in_file("a"), converted.name_in_file("c")) == ("b", "c")


@pytest.mark.parametrize("path", sorted((config_folder() / "pretrain").glob("*.yaml")), ids=str)
def test_what_was_written_fits_the_config_that_it_was_written_by(path):
    cfg = gn_det.get_cfg()
    cfg.merge_from_file(str(path))
    written = PretrainMetadata(cfg).state_dict()
    plain = (int, float, str, bool, type(None))
    for value in written.values():
        assert all(type(v) in plain for v in (value if isinstance(value, list) else [value]))
    known = convert({"model": {"backbone.a": torch.ones(1)}, "gn_det": written}).known
    assert check_weights(cfg, known) == []
    assert known.norm == ("BN" if path.stem.endswith("bn") else cfg.MODEL[
        "VGG" if "vgg" in path.stem else "RESNETS"].NORM)  # fmt: skip
    assert known.input_format == "BGR"
