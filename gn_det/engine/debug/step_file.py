"""The file of a failed step: what is needed to repeat it, as tensors and plain containers.

Detectron2's structures are written by their parts, so that reading the file runs none of its code.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import (
    BitMasks,
    Boxes,
    Instances,
    Keypoints,
    PolygonMasks,
    RotatedBoxes,
)
from torch import nn

from gn_det.checkpoint import WeightsError, load_file
from gn_det.utils import atomic_write

from .locate_nonfinite import Step

__all__ = ["load_step", "save_step"]

FORMAT = "a training step of gn_det, 1"
KIND = "__kind__"
_OF_ONE_TENSOR = {c.__name__: c for c in (Boxes, RotatedBoxes, BitMasks, Keypoints)}


def save_step(path: str | Path, cfg: CfgNode, model: nn.Module, step: Step) -> None:
    """Write a step and the weights before it, whole or not at all.

    Args:
        path: The path of the file; its folder is made.
        cfg: The finished config that the model was built from.
        model: The model, not wrapped.
        step: The step. Its batches are Detectron2's lists of dicts, or dicts of tensors. A value of
            another kind than tensors, arrays, plain values and Detectron2's structures is left out.

    Raises:
        SaveError: The file could not be written.
    """
    content = {
        "format": FORMAT,
        "cfg": cfg.dump(),
        "model": dict(model.state_dict()),
        **vars(step),
        "batches": encode(step.batches),
    }
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    atomic_write(path, partial(torch.save, content))


def load_step(path: str | Path) -> tuple[str, dict[str, torch.Tensor], Step]:
    """Read what :func:`save_step` wrote, without running code from it.

    Args:
        path: The path of the file.

    Returns:
        The config as YAML, the model's state dict and the step.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: The file is damaged, would run code, or is of another kind.
    """
    content = load_file(path)
    if content.get("format") != FORMAT:
        raise WeightsError(f"{path}: it holds no step of a training that failed.")
    step = {name: content[name] for name in Step.__dataclass_fields__}
    return content["cfg"], content["model"], Step(**{**step, "batches": decode(step["batches"])})


def encode(value: Any) -> Any:
    """Return ``value`` as tensors, numbers, strings, and lists and dicts of these."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()  # not the storage of which it may be a small part
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {KIND: "array", "tensor": torch.from_numpy(value.copy())}
    if isinstance(value, np.generic):
        return encode(value.item())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    kind = type(value).__name__
    if isinstance(value, Instances):
        size, fields = list(value.image_size), encode(value.get_fields())
        return {KIND: "Instances", "image_size": size, "fields": fields}
    if isinstance(value, PolygonMasks):
        return {KIND: kind, "polygons": [[p.tolist() for p in of] for of in value.polygons]}
    if kind in _OF_ONE_TENSOR:
        return {KIND: kind, "tensor": encode(value.tensor)}
    return {KIND: "left out", "type": kind}


def decode(value: Any) -> Any:
    """Return what :func:`encode` was given, tuples as lists; None for what was left out."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(KIND)
    if kind is None:
        return {key: decode(item) for key, item in value.items()}
    if kind == "array":
        return value["tensor"].numpy()
    if kind == "Instances":
        fields = {name: decode(field) for name, field in value["fields"].items()}
        known = {name: field for name, field in fields.items() if field is not None}
        return Instances(tuple(value["image_size"]), **known)
    if kind == "PolygonMasks":
        return PolygonMasks([[np.asarray(p) for p in of] for of in value["polygons"]])
    return _OF_ONE_TENSOR[kind](value["tensor"]) if kind in _OF_ONE_TENSOR else None
