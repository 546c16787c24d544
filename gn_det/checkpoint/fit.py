"""All that is checked between the weights of a file and a model, before a value is loaded.

``fit`` is what loading does; ``check_weights_file`` does the same before a training starts, with a
model without values. A file that leaves random what training never changes, or nearly the whole
backbone, trains without an error and loses AP: it is refused.
"""

import logging

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from gn_det.modeling import check_weights
from gn_det.modeling.inspect import look_at
from gn_det.modeling.weights_fit import backbone_tensors, frozen_tensors
from gn_det.utils import and_more

from .convert import convert
from .converted_state import Converted
from .errors import WeightsError
from .files import local_file, parse_path
from .matching import check_compatible, match
from .report import Report, count_parts
from .safe_load import load_file

__all__ = ["check_weights_file", "fit", "log_report"]

logger = logging.getLogger(__name__)

# Names that fit by chance are few. A backbone whose last stages alone are missing has half or more.
_MIN_SHARE = 0.1


def check_weights_file(weights: str, cfg: CfgNode, model: nn.Module | None = None) -> None:
    """Check that a file can be loaded and fits, before any work is done.

    Args:
        weights: The path or URL, see :meth:`gn_det.checkpoint.Checkpointer.load`; "" is no file.
        cfg: A finished config with gn_det's keys.
        model: The model of ``cfg``, on any device; None builds it without values.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: See :meth:`gn_det.checkpoint.Checkpointer.load`.
    """
    if not weights:
        return
    path, digest, heuristics = parse_path(weights)
    checkpoint = load_file(local_file(path, digest), warn=False)
    try:
        converted = convert(checkpoint, about=path)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    converted.suffixes = converted.suffixes or heuristics
    fit(converted, look_at(cfg).model if model is None else model, cfg, path, warn=False)


def fit(
    converted: Converted,
    model: nn.Module,
    cfg: CfgNode | None,
    path: str,
    *,
    warn: bool = True,
    whole: bool = False,
) -> tuple[dict[str, torch.Tensor], Report]:
    """Match weights to a model, which is not changed, and refuse those that do not fit.

    Args:
        converted: The weights.
        model: The model that they are for, on any device.
        cfg: The config of the model, which is compared with how they were trained. None compares
            nothing, and lets any part stay random.
        path: The path of the file, for messages.
        warn: Whether to log what is unusual and allowed.
        whole: Whether the weights have to fill the whole model, whatever the config allows.

    Returns:
        The weights by parameter, and the report.

    Raises:
        WeightsError: The weights are of another network, were trained in another way, or leave a
            part random that must not be.
    """
    warnings = []
    if cfg is not None:
        problems = check_weights(cfg, converted.known, path, model)
        fatal = [problem.message for problem in problems if problem.fatal]
        if fatal:
            raise WeightsError("\n".join(fatal))
        warnings += [problem.message for problem in problems]
    found, keys, report = match(converted, model)
    try:
        check_compatible(converted, model, keys, report)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    if whole and report.unfilled:
        raise WeightsError(
            f"{path}: it has nothing of the right shape for {and_more(report.unfilled, 1)}, which "
            "would be random in the evaluation. Give the weights of a whole model."
        )
    random = _left_random(model, report)
    refused = [key for key in random if cfg is not None and not cfg.MODEL.GN[key]]
    if refused:
        allow = [f"MODEL.GN.{key} True (in a Python config train.{key.lower()})" for key in refused]
        raise WeightsError(
            f"{path}: {' '.join(random[key] for key in refused)} Set {' and '.join(allow)} if this "
            f"is meant.\n{report.parts_table()}"
        )
    warnings += [f"{path}: {reason}" for reason in random.values()]
    for warning in warnings if warn else []:
        logger.warning(warning)
    return found, report


def log_report(report: Report, path: str) -> None:
    """Log what was filled, part by part; as a warning where anything was not, or was not used.

    Args:
        report: The report of a load.
        path: The path of the file.
    """
    if comm.is_main_process():
        whole = not (report.unfilled or report.unused)
        text = f"{path}: {report.summary()}\n{report.parts_table()}"
        logger.log(logging.INFO if whole else logging.WARNING, text)


def _left_random(model: nn.Module, report: Report) -> dict[str, str]:
    """Return what stays random and must not, by the key below MODEL.GN that allows it."""
    problems = {}
    backbone = backbone_tensors(model)
    filled = sum(name in report.matched for name in backbone)
    if filled < _MIN_SHARE * len(backbone):
        theirs = report.unused or list(report.matched.values())
        problems["ALLOW_RANDOM_BACKBONE"] = (
            f"It fills {filled or 'none'} of the {len(backbone)} tensors of the backbone, such "
            f"as {backbone[0]}; names in the file are such as {theirs[0]}. Give weights that "
            "have the backbone."
        )
    frozen = frozen_tensors(model)
    unfilled = [name for name in report.unfilled if name in frozen]
    if unfilled:
        problems["ALLOW_FROZEN_RANDOM"] = (
            f"It has nothing for {len(unfilled)} tensors that are frozen in the model: "
            f"{count_parts(unfilled)}. They would stay random, or no normalization at all "
            "(FrozenBN). Give weights that have them, or train them: MODEL.BACKBONE.FREEZE_AT "
            "0, and NORM GN in place of FrozenBN."
        )
    return problems
