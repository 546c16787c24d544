"""Repeats a step that failed, from the file that the run left of it."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from gn_det.config import get_cfg
from gn_det.engine.determinism import require_determinism
from gn_det.engine.precision import autocast
from gn_det.engine.setup import fall_back_to_cpu

from .locate_nonfinite import NonFiniteReport, Step, locate_nonfinite
from .step_file import load_step

__all__ = ["replay"]


def replay(
    path: str | Path, build_model: Callable[[CfgNode], nn.Module] = build_model
) -> tuple[Step, NonFiniteReport]:
    """Repeat the step of a file ``nonfinite_iter*.pth``, from the weights before it.

    Where there is no GPU it runs on the CPU; a number may be finite there that was not on the GPU.

    Args:
        path: The path of the file. No code is run from it.
        build_model: A function that builds the model of a config, such as
            ``MyTrainer.build_model``.

    Returns:
        The step, and what was found.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: It is not a file of a failed step.
    """
    text, state, step = load_step(path)
    cfg = _read(text)
    fall_back_to_cpu(cfg)
    if cfg.DETERMINISTIC:
        require_determinism()
    model = build_model(cfg).train()
    model.load_state_dict(state)
    return step, locate_nonfinite(model, step, partial(autocast, cfg))


def _read(text: str) -> CfgNode:
    cfg = get_cfg()
    cfg.set_new_allowed(True)  # keys of a user's project
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        file.write_text(text, encoding="utf-8")
        cfg.merge_from_file(str(file))
    return cfg
