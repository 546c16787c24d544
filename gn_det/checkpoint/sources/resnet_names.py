"""The names of ResNet layers in torchvision, which timm and mmdetection use, too."""

import re

import torch

from gn_det.checkpoint.errors import WeightsError

__all__ = ["is_resnet", "rename_resnet"]

_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
# theirs -> ours; a norm is called bn1 by all, except gn1 by mmdetection where it is a GN
_RULES = [
    (r"conv1\.weight", r"stem.conv1.weight"),
    (rf"[bg]n1\.{_NORM}", r"stem.conv1.norm.\1"),
    (r"layer([1-4])\.(\d+)\.conv([1-3])\.weight", r"res\1.\2.conv\3.weight"),
    (rf"layer([1-4])\.(\d+)\.[bg]n([1-3])\.{_NORM}", r"res\1.\2.conv\3.norm.\4"),
    (r"layer([1-4])\.(\d+)\.downsample\.0\.weight", r"res\1.\2.shortcut.weight"),
    (rf"layer([1-4])\.(\d+)\.downsample\.1\.{_NORM}", r"res\1.\2.shortcut.norm.\3"),
    (r"fc\.(weight|bias)", r"linear.\1"),
]


def is_resnet(state: dict[str, torch.Tensor]) -> bool:
    """Return whether ``state`` is a ResNet in torchvision's names."""
    return "layer1.0.conv1.weight" in state and "layer4.0.conv1.weight" in state


def rename_resnet(name: str) -> str:
    """Return Detectron2's name for ``name``, without the modules in front of the ResNet.

    Raises:
        WeightsError: Detectron2's ResNet has no such layer.
    """
    for pattern, ours in _RULES:
        found = re.fullmatch(pattern, name)
        if found:
            # theirs are layer1 to layer4, ours res2 to res5
            return re.sub(r"^res(\d)", lambda m: f"res{int(m[1]) + 1}", found.expand(ours))
    raise WeightsError(
        f"This is a ResNet of another kind: it has '{name}', and Detectron2's ResNet has no such "
        "layer (deep stems, averaged shortcuts and attention are none of its own)."
    )
