"""Files of safetensors are read as those of torch.save are: by their content and their names."""

import json
import struct

import pytest
import timm
import torch
from safetensors.torch import save, save_file

from gn_det.checkpoint import Checkpointer, WeightsError, convert, convert_file, load_file
from gn_det.checkpoint.safetensors_file import is_safetensors

STATE = {
    "w": torch.arange(6.0).view(2, 3),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "scalar": torch.tensor(3),
    "empty": torch.empty(0, 4),
}


def _file(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("name", ["model.safetensors", "weights.pth", "R-50.pkl", "plain"])
def test_tensors_and_metadata(name, tmp_path):
    path = str(tmp_path / name)
    save_file(STATE, path, metadata={"format": "pt", "note": "mine"})
    content = load_file(path)
    assert content["metadata"] == {"format": "pt", "note": "mine"}
    assert set(content["model"]) == set(STATE)
    for key, value in STATE.items():
        assert content["model"][key].dtype == value.dtype
        assert torch.equal(content["model"][key], value)
    save_file(STATE, path)
    assert load_file(path)["metadata"] == {}


ONE = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
DAMAGED = {
    "cut off in the data": save(STATE)[:-3],
    "cut off in the header": save(STATE)[:40],
    "header alone": _file(ONE),
    "more data than it names": _file(ONE, bytes(9)),
    "a header longer than the file": struct.pack("<Q", 1 << 40) + b"{" + bytes(100),
    "a header that is no JSON": _file(b"{this is none}", bytes(4)),
    "a type that does not exist": _file({"w": {**ONE["w"], "dtype": "F31"}}, bytes(4)),
    "another shape than the data": _file({"w": {**ONE["w"], "shape": [2]}}, bytes(4)),
    "a huge shape": _file({"w": {**ONE["w"], "shape": [2**62, 2**62]}}, bytes(4)),
    "a negative shape": _file({"w": {**ONE["w"], "shape": [-1]}}, bytes(4)),
    "tensors over each other": _file({**ONE, "v": ONE["w"]}, bytes(4)),
    "a list": _file({"w": [1, 2]}, bytes(4)),
    "metadata of numbers": _file({"__metadata__": {"epoch": 3}, **ONE}, bytes(4)),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files(case, tmp_path, refusal):
    path = tmp_path / "model.safetensors"
    path.write_bytes(DAMAGED[case])
    assert "it is a safetensors file that is cut off or damaged (" in refusal(path)


@pytest.mark.parametrize("framework", ["tf", "flax"])
def test_other_frameworks(framework, tmp_path, refusal):
    path = tmp_path / "model.safetensors"
    save_file(STATE, str(path), metadata={"format": framework})
    assert f"it is a safetensors file of {framework}, whose layers are laid out" in refusal(path)


def test_no_tensors(tmp_path):
    path = str(tmp_path / "model.safetensors")
    save_file({}, path)
    with pytest.raises(WeightsError, match="It holds no weights; its entries are none"):
        convert(load_file(path))


def test_what_is_none():
    assert is_safetensors(save(STATE))
    for other in (b"", b"{}", b"PK\x03\x04" + bytes(20), b"\x80\x02}q\x00", bytes(40)):
        assert not is_safetensors(other)


def test_timms_names(tmp_path):
    model = timm.create_model("resnet18", norm_layer="groupnorm", pretrained=False)
    path = str(tmp_path / "model.safetensors")
    save_file(model.state_dict(), path, metadata={"format": "pt"})
    target = str(tmp_path / "out.pkl")
    converted, report = convert_file(path, target)
    assert (converted.source, report.missing) == ("timm", [])
    assert converted.known.input_format == "RGB"
    written = torch.from_numpy(load_file(target)["model"]["res2.0.conv1.weight"])
    assert torch.equal(written, model.layer1[0].conv1.weight)


def test_a_whole_detector(tiny_cfg, tmp_path, small_model):
    model, other = (small_model(tiny_cfg(), seed=seed) for seed in (1, 2))
    path = str(tmp_path / "model.safetensors")
    save_file(model.state_dict(), path, metadata={"iteration": "7"})
    checkpointer = Checkpointer(other, cfg=tiny_cfg())
    # its metadata is text, and resumes nothing
    assert checkpointer.load(path) == {"metadata": {"iteration": "7"}}
    assert not checkpointer.report.unfilled
    for a, b in zip(model.state_dict().values(), other.state_dict().values()):
        assert torch.equal(a, b)
