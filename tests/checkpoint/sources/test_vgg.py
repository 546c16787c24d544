"""torchvision's VGGs; that the features are the same is tests/modeling/test_vgg.py's."""

import pytest
import torch
import torchvision

from gn_det.checkpoint import WeightsError, convert, convert_file, recognize


def _state(name):
    with torch.device("meta"):
        return getattr(torchvision.models, name)().state_dict()


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
@pytest.mark.parametrize("norm", ["", "_bn"])
def test_recognized(depth, norm):
    state = _state(f"vgg{depth}{norm}")
    assert recognize(state) == "torchvision-vgg"
    out = convert(state)
    known = out.known
    assert (known.network, known.depth, known.norm) == ("VGG", depth, "BN" if norm else "")
    assert (known.input_format, known.pixel_mean[0]) == ("RGB", 123.675)
    classifier = {n for n, why in out.dropped.items() if why == "ImageNet classifier"}
    assert classifier == {n for n in state if n.startswith("classifier.")}
    assert all(name.startswith("vgg") for name in out.state)


def test_other_networks_of_a_list_of_features():
    for name in ("alexnet", "squeezenet1_0", "densenet121", "mobilenet_v2"):
        assert recognize(_state(name)) != "torchvision-vgg" or name == "alexnet"
    with pytest.raises(WeightsError, match="has 5 convolutions; VGG-11 has 8, VGG-13 has 10"):
        convert(_state("alexnet"))


def test_the_bias_goes_into_the_mean():
    state = {key: torch.zeros(value.shape) for key, value in _state("vgg11_bn").items()}
    state["features.0.bias"] += 3
    state["features.1.running_mean"] += 5
    out = convert(state)
    assert out.state["vgg1.0.norm.running_mean"].tolist() == [2.0] * 64
    assert "vgg1.0.bias" not in out.state
    assert out.dropped["features.0.bias"] == "is part of the norm's mean"
    assert out.name_in_file("vgg2.0.norm.weight") == "features.5.weight"


def test_converted_file_is_whole(tmp_path):
    model = torchvision.models.vgg11(init_weights=False)
    path = str(tmp_path / "vgg11.pth")
    torch.save({n: v for n, v in model.state_dict().items() if "features" in n}, path)
    _, report = convert_file(path, str(tmp_path / "out.pth"))
    assert (len(report.matched), report.missing, report.unused) == (16, [], [])
