"""Detectron2's own files, gn_det's among them: checkpoints, its model zoo, converted backbones.

The names stay. ImageNet backbones may lack the modules in front (``res2.0.conv1.weight`` for
``backbone.bottom_up.res2.0.conv1.weight``). ``stem.fc`` is what Detectron2's converter of
torchvision's models makes of their classifier.
"""

import re

import torch

from gn_det.checkpoint.converted_state import Converted

__all__ = ["convert", "matches"]

_OURS = re.compile(
    r"(^|\.)(stem\.conv\d\.(weight|norm\.)|res[2-5]\.\d+\.(conv\d|shortcut)\.)"
    r"|^(backbone|proposal_generator|roi_heads)\."
    r"|^(bottom_up|fpn_lateral\d)\."
)
# before Detectron2 0.2, buffers that follow from the config were saved as well
_FROM_CONFIG = re.compile(r"(^|\.)(anchor_generator\.cell_anchors\.\d+|pixel_mean|pixel_std)$")


def matches(state: dict[str, torch.Tensor]) -> bool:
    """Return whether the names are Detectron2's."""
    # mmdetection's detectors have a backbone, too
    return any(_OURS.search(name) for name in state) and not any(
        name.startswith(("backbone.layer", "backbone.conv1.", "rpn_head.")) for name in state
    )


def convert(state: dict[str, torch.Tensor], about: str = "") -> Converted:
    """Return ``state`` without what a config decides."""
    dropped = {}
    kept = {}
    for name, value in state.items():
        if _FROM_CONFIG.search(name):
            dropped[name] = "follows from the config"
        elif name.startswith("stem.fc."):
            dropped[name] = "ImageNet classifier"
        else:
            kept[name] = value
    # a whole model's names are complete; a backbone's may lack what is in front
    whole = any(name.startswith(("backbone.", "roi_heads.")) for name in kept)
    return Converted("Detectron2", kept, dropped=dropped, suffixes=not whole)
