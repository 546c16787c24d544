"""timm's GN ResNets: ``resnet50_gn``, and ``ResNet(..., norm_layer=GroupNorm)`` in general.

torchvision's names, and its preprocessing: RGB, mean and standard deviation of ImageNet; stride on
the 3x3. timm's GroupNorm has 32 groups; the file does not say so. Variants with a deep stem, an
averaged shortcut (the "d" ones) or attention have layers that Detectron2's ResNet does not have.
"""

import torch

from gn_det.checkpoint.converted_state import Converted

from .resnet_names import is_resnet
from .torchvision import convert_resnet

__all__ = ["convert", "matches"]


def matches(state: dict[str, torch.Tensor]) -> bool:
    """Return whether it is a ResNet in torchvision's names with norms that have no statistics."""
    norms = [name for name in state if ".bn1." in name]
    return is_resnet(state) and bool(norms) and not any("running" in name for name in norms)


def convert(state: dict[str, torch.Tensor], about: str = "") -> Converted:
    """Rename. The ImageNet classifier becomes ``linear``.

    Raises:
        gn_det.checkpoint.WeightsError: Detectron2's ResNet has no such layer.
    """
    return convert_resnet("timm", state, about)
