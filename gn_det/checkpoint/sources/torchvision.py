"""torchvision's ResNets: BN ones with all statistics, and those with ``norm_layer=GroupNorm``.

RGB images in 0 to 255, minus the mean, over the standard deviation; stride on the 3x3. BN's
statistics stay as they are: FrozenBN has the same four tensors. The number of a GroupNorm's
groups is not in the file.

timm's GN ResNets have the very same names and :mod:`.timm` is asked first; both mean the same.
"""

import torch

from gn_det.checkpoint.converted_state import Converted, norm_of_names
from gn_det.modeling import PretrainSpec
from gn_det.modeling.network import resnet_depth
from gn_det.modeling.pretrain_spec import RGB_STD

from .resnet_names import is_resnet, rename_resnet

__all__ = ["convert", "convert_resnet", "matches"]


def matches(state: dict[str, torch.Tensor]) -> bool:
    """Return whether the names are torchvision's."""
    return is_resnet(state) and not any(name.startswith("gn1.") for name in state)


def convert(state: dict[str, torch.Tensor], about: str = "") -> Converted:
    """Rename. The ImageNet classifier becomes ``linear``."""
    return convert_resnet("torchvision", state, about)


def convert_resnet(source: str, state: dict[str, torch.Tensor], about: str) -> Converted:
    """Convert a ResNet in torchvision's names that was trained in torchvision's way.

    Args:
        source: The project that the weights are from.
        state: The tensors by name.
        about: The file's name.

    Raises:
        gn_det.checkpoint.WeightsError: Detectron2's ResNet has no such layer.
    """
    names = {rename_resnet(name): name for name in state}
    known = PretrainSpec(
        network="ResNet",
        depth=resnet_depth(list(names)),
        norm=norm_of_names(list(names)),
        stride_in_1x1=False,
        pixel_mean=RGB_STD[0],
        pixel_std=RGB_STD[1],
        input_format="RGB",
        # of torchvision and timm themselves none has it; the Weight Standardization authors'
        # own files have these names, too
        weight_standardization="ws" in about.lower().replace("-", "_").replace(".", "_").split("_"),
    )
    return Converted(source, {new: state[old] for new, old in names.items()}, names, known=known)
