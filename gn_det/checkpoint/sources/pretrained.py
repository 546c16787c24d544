"""Checkpoints of gn_det's own pre-training (gn-det pretrain): a backbone and a classifier.

In them the backbone's names begin with ``backbone.``; what a detector calls it may be longer, as in
``backbone.bottom_up.res2.0.conv1.weight``. So the word is taken off. How it was trained (pixel mean
and std, channel order, stride, norm, groups) is in the file's entry ``gn_det``.
"""

import torch

from gn_det.checkpoint.converted_state import Converted

__all__ = ["convert", "matches"]


def matches(state: dict[str, torch.Tensor]) -> bool:
    """Return whether it is a backbone with a linear classifier and nothing else."""
    rest = {name for name in state if not name.startswith("backbone.")}
    return rest == {"linear.weight", "linear.bias"} and len(state) > 2


def convert(state: dict[str, torch.Tensor], about: str = "") -> Converted:
    """Name the layers from the backbone on; the classifier is ``linear`` as in other sources."""
    names = {name.removeprefix("backbone."): name for name in state}
    return Converted("gn_det", {new: state[old] for new, old in names.items()}, names)
