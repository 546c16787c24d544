"""Models by name."""

import torch
from detectron2.modeling import build_model
from torch import nn

from gn_det.checkpoint import Checkpointer

from .configs import get_config

__all__ = ["get"]


def get(name: str, trained: bool = True, device: str | None = None) -> nn.Module:
    """Build the model called ``name``.

    Args:
        name: A name of :func:`gn_det.model_zoo.list_configs`.
        trained: Whether the published model of this config is loaded (downloaded once and cached).
            Detectron's models were trained with its own RoIAlign, which differs from Detectron2's
            by half a pixel, so that their AP is not exactly the published one. If False, the
            weights are random.
        device: The device of the model. None is a GPU if there is one, otherwise the CPU.

    Returns:
        The model, in ``eval()`` mode if it is trained.

    Raises:
        FileNotFoundError: There is no such config.
        gn_det.config.ConfigError: No model of this config was published, or it does not fit.
    """
    cfg = get_config(name, trained=trained)
    cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(cfg)
    if trained:
        Checkpointer(model, cfg=cfg).load(cfg.MODEL.WEIGHTS)
        model.eval()
    return model
