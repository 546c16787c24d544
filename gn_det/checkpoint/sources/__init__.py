"""Where weights come from. Each module knows the names of one source.

A source has ``matches(state)``, which tells by the names alone whether they are its own, and
``convert(state, about)``, which renames. ``state`` is a dict name -> tensor; ``about`` is text
that goes with the weights: the file's name, and the config where the file holds one.
"""

from types import ModuleType

from . import (
    detectron,
    detectron2,
    mmdetection,
    preactivation,
    pretrained,
    timm,
    torchvision,
    torchvision_detector,
    vgg,
)

__all__ = ["SOURCES"]

# In the order in which they are asked.
SOURCES: dict[str, ModuleType] = {
    "preactivation": preactivation,  # has a stem.conv1, too
    "gn_det": pretrained,  # has names of Detectron2's backbones, too
    "torchvision-detector": torchvision_detector,  # has a backbone and roi_heads, too
    "detectron2": detectron2,
    "detectron": detectron,
    "mmdetection": mmdetection,
    "timm": timm,
    "torchvision": torchvision,
    "torchvision-vgg": vgg,
}
