import os
import pickle

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer

from gn_det.checkpoint import WeightsError, convert, load_file, recognize, save_converted
from gn_det.checkpoint.converted import Converted
from gn_det.modeling import PretrainSpec

STATE = {"res2.0.conv1.weight": torch.arange(6.0).view(2, 3), "stem.conv1.weight": torch.ones(1)}
KNOWN = PretrainSpec(50, "GN", False, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "RGB", None, False)


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (["backbone.bottom_up.res2.0.conv1.weight"], "detectron2"),
        (["res2.0.conv1.weight"], "detectron2"),
        (["res2_0_branch2a_w", "conv1_w"], "detectron"),
        (["backbone.layer1.0.conv1.weight", "neck.fpn_convs.0.conv.weight"], "mmdetection"),
        (["gn1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"], "mmdetection"),
        (["bn1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight", "layer1.0.bn1.weight"],
         "timm"),
        (["layer1.0.conv1.weight", "layer4.0.conv1.weight", "layer1.0.bn1.running_mean"],
         "torchvision"),
        (["stages.0.blocks.0.norm1.weight", "stages.0.blocks.0.conv1.weight"], "preactivation"),
        (["backbone.res2.0.conv1.weight", "linear.weight", "linear.bias"], "gn_det"),
        (["features.0.weight", "features.0.bias", "classifier.0.bias"], "torchvision-vgg"),
        (["encoder.layers.0.weight"], None),
    ],
)  # fmt: skip
def test_recognize(names, source):
    assert recognize(dict.fromkeys(names, torch.ones(1))) == source


@pytest.mark.parametrize("place", ["model", "blobs", "state_dict", "model_state", None])
def test_where_the_weights_are(place):
    checkpoint = {place: STATE, "epoch": 3} if place else STATE
    assert set(convert(checkpoint).state) == set(STATE)


def test_ddp_prefix():
    assert set(convert({f"module.{k}": v for k, v in STATE.items()}).state) == set(STATE)


def test_what_is_no_array_is_left_out():
    out = convert({**STATE, "note": "hello", "names": np.array(["a"])})
    assert out.dropped == {"note": "no numbers (str)", "names": "no numbers (ndarray)"}


def test_arrays_of_any_layout():
    plain = np.arange(6, dtype=np.float32).reshape(2, 3)
    read_only = plain.copy()
    read_only.flags.writeable = False
    arrays = {
        "plain": plain,
        "big_endian": plain.astype(">f4"),
        "read_only": read_only,
        "fortran": np.asfortranarray(plain),
        "reversed": plain[::-1][::-1],
        "scalar": np.array(3, dtype=np.float32),
    }
    out = convert({f"backbone.{name}": value for name, value in arrays.items()}).state
    for name, value in arrays.items():
        assert out[f"backbone.{name}"].shape == value.shape
        np.testing.assert_array_equal(out[f"backbone.{name}"].numpy(), value.astype(np.float32))


@pytest.mark.parametrize("nothing", [{}, {"model": {}}, {"epoch": 3, "note": "x"}])
def test_no_weights(nothing):
    with pytest.raises(WeightsError, match="It holds no weights"):
        convert(nothing)


def test_no_dict():
    with pytest.raises(WeightsError, match="holds a list, and no weights by name"):
        convert([1, 2])


def test_unknown_source():
    with pytest.raises(WeightsError, match="no source 'caffe'; known are auto, .*detectron"):
        convert(STATE, "caffe")


def test_a_source_can_be_given():
    names = ["conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"]
    assert convert(dict.fromkeys(names, torch.ones(1)), "torchvision").source == "torchvision"
    with pytest.raises(WeightsError, match="it has 'stem.conv1.weight'"):
        convert({"stem.conv1.weight": torch.ones(1)}, "timm")


@pytest.mark.parametrize("ending", [".pkl", ".pth"])
def test_saved_and_read_again(ending, tmp_path):
    path = str(tmp_path / "new" / f"weights{ending}")
    save_converted(Converted("timm", STATE, known=KNOWN), path)
    content = load_file(path)
    assert content["__author__"] == "gn_det"
    assert content["matching_heuristics"] is True
    again = convert(content)
    assert (again.known, again.source, again.suffixes) == (KNOWN, "timm", True)
    for name, value in STATE.items():
        assert torch.equal(again.state[name], value)
    assert os.listdir(tmp_path / "new") == [f"weights{ending}"]


def test_detectron2_reads_it(tmp_path):
    path = str(tmp_path / "weights.pkl")
    save_converted(Converted("timm", {"conv.weight": torch.full((1, 1, 1, 1), 7.0)}), path)
    model = torch.nn.ModuleDict({"body": torch.nn.ModuleDict({"conv": torch.nn.Conv2d(1, 1, 1)})})
    DetectionCheckpointer(model).load(path)
    assert model["body"]["conv"].weight.item() == 7


def test_bfloat16_to_pkl(tmp_path):
    path = str(tmp_path / "weights.pkl")
    save_converted(Converted("x", {"a": torch.tensor([1.5], dtype=torch.bfloat16)}), path)
    with open(path, "rb") as f:
        assert pickle.load(f)["model"]["a"] == np.float32(1.5)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"before")
    broken = Converted("x", {"a": torch.empty(1, device="meta")})
    with pytest.raises(NotImplementedError):
        save_converted(broken, str(path))
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["weights.pkl"]


def test_where_it_cannot_be_written(tmp_path):
    with pytest.raises(WeightsError, match="end in .pkl or .pth"):
        save_converted(Converted("x", STATE), str(tmp_path / "weights.bin"))
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="it cannot be written"):
        save_converted(Converted("x", STATE), str(tmp_path / "file" / "weights.pkl"))


def test_a_wrong_entry_of_ours():
    with pytest.raises(WeightsError, match="'gn_det' has the depth 'fifty'"):
        convert({"model": STATE, "gn_det": {"depth": "fifty"}})
