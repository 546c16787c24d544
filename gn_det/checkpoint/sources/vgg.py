"""torchvision's VGG-11 to -19, plain and with BN.

Its ``features`` are a list of layers, numbered with ReLU and pooling among them; ours are stages of
convolutions. RGB images in 0 to 255, minus the mean, over the standard deviation.

With BN its convolutions have a bias that the norm takes away again. Ours have none, so that the
mean that BN subtracts is lessened by it: the same outputs.
"""

import re

import torch

from gn_det.checkpoint.converted_state import Converted
from gn_det.checkpoint.errors import WeightsError
from gn_det.modeling import PretrainSpec
from gn_det.modeling.pretrain_spec import RGB_STD
from gn_det.modeling.vgg import NUM_CONVS

__all__ = ["convert", "matches"]

_PARAMETERS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def matches(state: dict[str, torch.Tensor]) -> bool:
    """Return whether the names are torchvision's of a VGG."""
    return {"features.0.weight", "features.0.bias"} <= set(state) and all(
        re.match(r"(features|classifier)\.\d+\.\w+$", name) for name in state
    )


def convert(state: dict[str, torch.Tensor], about: str = "") -> Converted:
    """Rename, and take the biases into BN's means. The fully connected layers are left out.

    Raises:
        WeightsError: The number of convolutions is none of a VGG.
    """
    layers = sorted({int(name.split(".")[1]) for name in state if name.startswith("features.")})
    convs = [n for n in layers if state[f"features.{n}.weight"].ndim == 4]
    depth = next((d for d, counts in NUM_CONVS.items() if sum(counts) == len(convs)), None)
    if depth is None:
        raise WeightsError(
            f"Its names are those of torchvision's VGG, but it has {len(convs)} convolutions; "
            f"{', '.join(f'VGG-{d} has {sum(n)}' for d, n in NUM_CONVS.items())}."
        )
    ours = [f"vgg{s}.{i}" for s, n in enumerate(NUM_CONVS[depth], start=1) for i in range(n)]
    with_norm = set(layers) - set(convs)
    known = PretrainSpec(
        network="VGG",
        depth=depth,
        norm="BN" if with_norm else "",
        pixel_mean=RGB_STD[0],
        pixel_std=RGB_STD[1],
        input_format="RGB",
        weight_standardization=False,
    )
    out = Converted("torchvision", {}, known=known)
    for layer, conv in zip(ours, convs):
        _copy(state, out, f"features.{conv}", layer)
        if with_norm:
            _copy(state, out, f"features.{conv + 1}", f"{layer}.norm")
            bias = out.state.pop(f"{layer}.bias")
            out.dropped[out.names.pop(f"{layer}.bias")] = "is part of the norm's mean"
            out.state[f"{layer}.norm.running_mean"] = out.state[f"{layer}.norm.running_mean"] - bias
    out.dropped |= {n: "ImageNet classifier" for n in state if n.startswith("classifier.")}
    return out


def _copy(state: dict[str, torch.Tensor], out: Converted, theirs: str, ours: str) -> None:
    for parameter in _PARAMETERS:
        if f"{theirs}.{parameter}" in state:
            out.state[f"{ours}.{parameter}"] = state[f"{theirs}.{parameter}"]
            out.names[f"{ours}.{parameter}"] = f"{theirs}.{parameter}"
