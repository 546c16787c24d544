"""Weight Standardization as an option of the convolutions of backbone, FPN and heads.

Which ones: each of Detectron2's ``Conv2d`` that is followed by a norm, of whatever kind. These are
the ones of mmdetection's gn+ws models: stem, bottlenecks and shortcuts, lateral and output
convolutions of the FPN, the convolutions of box and mask head. RPN, upsampling, predictors and
fully connected layers have no norm there and stay plain: without a norm behind it, a standardized
weight would fix the scale of the output. FrozenBN counts as the norm that it was in pre-training.
"""

import torch
from detectron2.layers import Conv2d
from torch import nn

from gn_det.layers import standardize_weight

__all__ = [
    "StandardizedConv2d",
    "convolve",
    "fold_weight_standardization",
    "standardize_convs",
]


class StandardizedConv2d(Conv2d):
    """Detectron2's ``Conv2d``, run with its weight standardized.

    The parameter itself is the weight before standardization: the same state dict and the same
    initialization as the plain layer. ``norm`` and ``activation`` follow as there.

    Input (N, C, H, W), N may be 0; output (N, O, H', W').
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve, then norm and activation where the layer has them."""
        x = convolve(self, x)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x


def convolve(conv: Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Return the convolution of a layer alone, without the norm and activation that it holds.

    Args:
        conv: One of Detectron2's ``Conv2d``, standardized or not.
        x: The features (N, C, H, W), N may be 0.
    """
    standardized = isinstance(conv, StandardizedConv2d)
    weight = standardize_weight(conv.weight) if standardized else conv.weight
    return conv._conv_forward(x, weight, conv.bias)


def standardize_convs(model: nn.Module) -> None:
    """Turn each ``Conv2d`` of ``model`` that a norm follows into a :class:`StandardizedConv2d`.

    In place, by class: parameters, names and all references to the layers stay. Layers of a
    subclass of ``Conv2d`` have a forward of their own and stay as they are.

    Args:
        model: A model or a part of one.
    """
    for module in model.modules():
        if type(module) is Conv2d and module.norm is not None:
            module.__class__ = StandardizedConv2d


@torch.no_grad()
def fold_weight_standardization(model: nn.Module) -> None:
    """Write the standardized weights into the parameters and make the layers plain, for inference.

    In place. Outputs stay the same and the work on the weights is saved. The state dict is then
    one for ``MODEL.GN.WEIGHT_STANDARDIZATION False``; load it into a model that is built so.
    ``torch.jit.script`` needs a model folded; ``torch.jit.trace`` does not.

    It cannot be undone: mean and std of the filters are gone. Further training would train a plain
    GN model, whose weights nothing keeps standardized, at other step sizes (the weights have
    another scale) and with a momentum that belongs to other weights. To train further, fold a copy.
    """
    for module in model.modules():
        if type(module) is StandardizedConv2d:
            module.weight.copy_(standardize_weight(module.weight))
            module.__class__ = Conv2d
