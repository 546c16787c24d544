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
        name: of a YAML config, as :func:`gn_det.model_zoo.list_configs` gives it.
        trained: load the published model of this config (downloaded once, and cached). Detectron's
            models were trained with its own RoIAlign, half a pixel off Detectron2's, so that
            their AP here is not exactly the published one. False: random weights.
        device: where the model goes; None: a GPU where there is one, else the CPU.

    Returns:
        The model, in ``eval()`` where it is trained.

    Raises:
        FileNotFoundError: there is no such config.
        gn_det.config.ConfigError: no model of this config was published, or it does not fit.
    """
    cfg = get_config(name, trained=trained)
    cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(cfg)
    if trained:
        Checkpointer(model, cfg=cfg).load(cfg.MODEL.WEIGHTS)
        model.eval()
    return model
