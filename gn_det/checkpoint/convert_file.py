"""Convert a file into one of Detectron2's, and refuse where the result would be incomplete."""

import re

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from gn_det.modeling import check_weights

from .convert import convert, save_converted
from .converted import Converted
from .errors import WeightsError
from .files import local_file, parse_path
from .fit import check_compatible
from .matching import Report, match
from .reference import backbone_alone, reference_backbone
from .safe_load import load_file

__all__ = ["convert_file"]

_BACKBONE_NORM = re.compile(r"(^|\.)((stem|res[2-5]\.\d+)\.\w+|vgg[1-5]\.\d+)\.norm\.")


def convert_file(
    source_file: str, target_file: str, source: str = "auto", cfg: CfgNode | None = None
) -> tuple[Converted, Report]:
    """Convert weights; nothing is written unless a backbone's every norm is filled.

    Args:
        source_file: a path or a URL, of any source.
        target_file: ending in ``.pkl`` or ``.pth``.
        source: a key of :data:`gn_det.checkpoint.sources.SOURCES`, or "auto".
        cfg: the config that they are for. Without one they are compared with the backbone that
            they describe themselves; what is beyond it (FPN, heads) is carried along.

    Returns:
        The weights, and what was matched, missing and unused.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: it cannot be read, or not be converted, or does not fit.
    """
    path, digest, _ = parse_path(source_file)
    checkpoint = load_file(local_file(path, digest))
    try:
        converted = convert(checkpoint, source, path)
        report = _compare_backbone(converted) if cfg is None else _compare(converted, cfg)
        unfilled = [name for name in report.missing if _BACKBONE_NORM.search(name)]
        if unfilled:
            raise WeightsError(
                f"{len(unfilled)} tensors of the backbone's norms are not filled, such as "
                f"{unfilled[0]}."
            )
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    save_converted(converted, target_file)
    return converted, report


def _compare_backbone(converted: Converted) -> Report:
    alone, rest = backbone_alone(converted)
    model = reference_backbone(alone)
    _, keys, report = match(alone, model)
    check_compatible(alone, model, keys, report)
    report.extra = rest
    return report


def _compare(converted: Converted, cfg: CfgNode) -> Report:
    problems = [p.message for p in check_weights(cfg, converted.known, "It") if p.fatal]
    if problems:
        raise WeightsError(" ".join(problems))
    with torch.device("meta"):  # names and shapes, no memory
        model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    _, keys, report = match(converted, model)
    check_compatible(converted, model, keys, report)
    return report
