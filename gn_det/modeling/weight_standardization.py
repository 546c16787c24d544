"""Weight Standardization of the convolutions in backbone, FPN and heads.

It applies to each Detectron2 ``Conv2d`` that has a norm of any kind. These are the layers of
mmdetection's gn+ws models: stem, blocks and shortcuts, lateral and output convolutions of the FPN,
the convolutions of box head and mask head. RPN head, upsampling, predictors and fully connected
layers have no norm and are not standardized: without a norm after it, a standardized weight would
fix the scale of the output. FrozenBN counts as a norm, since it was one in pre-training.

Shapes:
    N: images or RoIs
    C, O: input and output channels
    H, W, H', W': height and width of input and output
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
    """Detectron2's ``Conv2d`` with a standardized weight.

    The parameter holds the weight before standardization: state dict and initialization are those
    of the plain layer. ``norm`` and ``activation`` follow as in the plain layer.

    The input has shape (N, C, H, W), where N may be 0, the output has shape (N, O, H', W').
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the convolution, then norm and activation if the layer has them."""
        x = self._conv_forward(x, standardize_weight(self.weight), self.bias)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x


def convolve(conv: Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Return the output of a layer's convolution, without its norm and activation.

    Args:
        conv: A Detectron2 ``Conv2d``, standardized or not.
        x: The input of shape (N, C, H, W). N may be 0.
    """
    standardized = isinstance(conv, StandardizedConv2d)
    weight = standardize_weight(conv.weight) if standardized else conv.weight
    return conv._conv_forward(x, weight, conv.bias)


def standardize_convs(model: nn.Module) -> None:
    """Turn each ``Conv2d`` of a model that has a norm into a :class:`StandardizedConv2d`.

    Only the class of the layers changes: parameters, names and references to them stay valid.
    Layers of a subclass of ``Conv2d`` are not changed, since they have their own forward.

    Args:
        model: The model or the part of a model, changed in place.
    """
    for module in model.modules():
        if type(module) is Conv2d and module.norm is not None:
            module.__class__ = StandardizedConv2d


@torch.no_grad()
def fold_weight_standardization(model: nn.Module) -> None:
    """Replace weights by standardized weights, and the layers by plain ones, for inference.

    The outputs do not change, and inference saves the work on the weights. Afterwards the state
    dict fits a model that is built with ``MODEL.GN.WEIGHT_STANDARDIZATION False``.

    Folding cannot be undone, since mean and std of the filters are lost. A folded model trains as a
    plain GN model: nothing standardizes its weights, their scale needs another learning rate, and
    the momentum in the optimizer belongs to the old weights. To continue training, fold a copy.

    Args:
        model: The model, changed in place.
    """
    for module in model.modules():
        if type(module) is StandardizedConv2d:
            module.weight.copy_(standardize_weight(module.weight))
            module.__class__ = Conv2d
