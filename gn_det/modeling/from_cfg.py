"""The first thing that a part of ours does when it is built from a config."""

import logging
import sys
import weakref
from collections.abc import Iterator
from types import FrameType

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

from gn_det.config import flatten, get_cfg, require_gn_config

__all__ = ["gn_config"]

logger = logging.getLogger(__name__)

_warned: weakref.WeakSet = weakref.WeakSet()  # trainers


def gn_config(cfg: CfgNode) -> CfgNode:
    """Return ``cfg.MODEL.GN``.

    Where Detectron2's own trainer builds the model, a warning names the keys that it ignores.

    Args:
        cfg: A config.

    Raises:
        ConfigError: It lacks gn_det's keys.
    """
    require_gn_config(cfg)
    trainer = _trainer_of_detectron2()
    if trainer is not None and trainer not in _warned:
        _warned.add(trainer)
        ignored = list(_keys_of_our_trainer(cfg))
        if ignored:
            logger.warning(
                f"{type(trainer).__name__} is a DefaultTrainer of Detectron2, which does not know "
                f"{', '.join(ignored)}. Derive it from gn_det.engine.Trainer, or train with "
                "`gn-det train`."
            )
    return cfg.MODEL.GN


def _trainer_of_detectron2() -> object | None:
    """Return the DefaultTrainer in whose ``__init__`` we are; ours does not call that one.

    The parts of a model get the config alone, so the stack is all that tells a training from other
    uses of the model.
    """
    engine = sys.modules.get("detectron2.engine.defaults")  # not needed to build a model
    frame: FrameType | None = sys._getframe()
    while engine is not None and frame is not None:
        if frame.f_code is engine.DefaultTrainer.__init__.__code__:
            return frame.f_locals["self"]
        frame = frame.f_back
    return None


def _keys_of_our_trainer(cfg: CfgNode) -> Iterator[str]:
    """Yield ``KEY VALUE`` of the keys that gn_det adds for training and evaluation."""
    theirs = dict(flatten(get_detectron2_cfg()))
    defaults = dict(flatten(get_cfg()))
    for key, value in flatten(cfg):
        ours = key in defaults and key not in theirs and not key.startswith("MODEL.")
        # register_datasets(cfg) obeys DATASETS.REGISTER for each trainer
        if ours and key != "DATASETS.REGISTER" and value != defaults[key]:
            yield f"{key} {value}"
