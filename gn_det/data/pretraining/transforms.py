"""Augmentation of images for classification.

It is that of Szegedy et al. 2015 as in fb.resnet.torch, which the paper uses (section 4.1): a
random crop of random area and shape, a flip, changes of brightness, contrast and saturation, and
noise along the principal components of ImageNet's colours. In evaluation, the shorter side is
resized to RESIZE, and the square in the middle is cut out.
"""

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode

__all__ = ["Lighting", "eval_transform", "resize_to", "train_transform"]

# of RGB values in [0, 1] over ImageNet's training set; each column is a component
_EIGENVALUES = torch.tensor([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


class Lighting:
    """Add one random colour to all pixels of an RGB image (Krizhevsky et al. 2012).

    Args:
        std: The standard deviation of the weight of each principal component.
    """

    def __init__(self, std: float):
        self.std = std

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return the image with the colour added; its values may leave [0, 255] a little.

        Args:
            image: The image, (3, H, W) in [0, 255].

        Returns:
            The image, (3, H, W) float32.
        """
        colour = _EIGENVECTORS @ (_EIGENVALUES * torch.randn(3) * self.std)
        return image.float() + 255 * colour.view(3, 1, 1)


def train_transform(cfg: CfgNode) -> T.Compose:
    """Return the random transform from a PIL image to a tensor (3, CROP, CROP).

    Args:
        cfg: A config with gn_det's keys. The channels are in the order of ``INPUT.FORMAT``.
    """
    p = cfg.PRETRAIN
    steps: list[Callable] = [
        T.RandomResizedCrop(
            p.CROP, scale=tuple(p.CROP_AREA), interpolation=InterpolationMode.BICUBIC
        )
    ]
    if cfg.INPUT.RANDOM_FLIP == "horizontal":
        steps.append(T.RandomHorizontalFlip())
    elif cfg.INPUT.RANDOM_FLIP == "vertical":
        steps.append(T.RandomVerticalFlip())
    if p.COLOR_JITTER:
        steps.append(T.ColorJitter(p.COLOR_JITTER, p.COLOR_JITTER, p.COLOR_JITTER))
    steps.append(T.PILToTensor())
    if p.LIGHTING and cfg.INPUT.FORMAT != "L":
        steps.append(Lighting(p.LIGHTING))
    return T.Compose([*steps, *_order(cfg)])


def resize_to(cfg: CfgNode) -> int:
    """Return the shorter side of an image, in pixels, before its middle is cut out.

    Args:
        cfg: A config with gn_det's keys.
    """
    return cfg.PRETRAIN.RESIZE or round(cfg.PRETRAIN.CROP * 256 / 224)


def eval_transform(cfg: CfgNode) -> T.Compose:
    """Return the transform for evaluation, which has nothing random.

    Args:
        cfg: A config with gn_det's keys.
    """
    resize = T.Resize(resize_to(cfg), InterpolationMode.BICUBIC)
    return T.Compose([resize, T.CenterCrop(cfg.PRETRAIN.CROP), T.PILToTensor(), *_order(cfg)])


def _order(cfg: CfgNode) -> list[Callable]:
    return [_to_bgr] if cfg.INPUT.FORMAT == "BGR" else []


def _to_bgr(image: torch.Tensor) -> torch.Tensor:
    return image.flip(0)
