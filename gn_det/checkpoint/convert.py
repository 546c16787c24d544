"""From what a file holds to weights in Detectron2's names, and to a file that Detectron2 reads.

convert({"blobs": {"conv1_w": ...}, "cfg": "..."}).state["stem.conv1.weight"]
convert_file("R-50-GN.pkl", "r50_gn.pkl")

``convert`` recognizes the source by its names and renames. ``convert_file`` compares the result
with a model before it writes: with a config's model, or with the ResNet or VGG that the weights
describe themselves, so that an incomplete backbone is not written.
"""

import dataclasses
import os
import pickle
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from torch import nn

from gn_det.config import get_cfg
from gn_det.data import class_names_of_file
from gn_det.modeling import build_gn_resnet_backbone, build_gn_vgg_backbone, check_weights
from gn_det.modeling.inspect import BuildError, look_at
from gn_det.modeling.network import resnet_depth
from gn_det.modeling.vgg import NUM_CONVS
from gn_det.utils import and_more, atomic_write, shorten

from .converted_state import (
    Converted,
    metadata_from_dict,
    metadata_to_dict,
    norm_of_names,
    preprocessing_of_record,
    unwrapped,
)
from .errors import WeightsError
from .files import local_file, parse_path
from .matching import check_compatible, match
from .report import Report
from .safe_content import Placeholder
from .safe_load import load_file
from .sources import SOURCES, detectron2

__all__ = [
    "backbone_alone",
    "convert",
    "convert_file",
    "recognize",
    "reference_backbone",
    "save_converted",
]

# where files keep the weights, when they hold other things as well
_PLACES = ("model", "blobs", "state_dict", "model_state", "model_state_dict")
# an average of the weights, for files that have nothing else
_EMA_PLACES = ("model_ema", "state_dict_ema", "ema_state_dict", "ema")
_ENDINGS = (".pkl", ".pth")
_BACKBONE_NORM = re.compile(r"(^|\.)((stem|res[2-5]\.\d+)\.\w+|vgg[1-5]\.\d+)\.norm\.")
_IN_BACKBONE = re.compile(
    r"(?:^|\.)((?:stem|res[2-5]\.\d+)\.(?:conv\d|shortcut).*|vgg[1-5]\.\d+\..*)"
)


def recognize(state: Mapping[str, torch.Tensor]) -> str | None:
    """Return the key of :data:`SOURCES` whose names the weights have; None where none knows them.

    Args:
        state: The tensors by name.
    """
    return next((name for name, source in SOURCES.items() if source.matches(state)), None)


def convert(checkpoint: Mapping[str, Any], source: str = "auto", about: str = "") -> Converted:
    """Convert a loaded file.

    Args:
        checkpoint: The content of the file: the weights themselves, or a dict with them under
            "model", "blobs" (Detectron), "state_dict" (mmdetection), "model_state" (pycls) or
            another usual name; an average of the weights counts where there is nothing else.
        source: A key of :data:`SOURCES`. "auto" goes by the names; weights that no source knows,
            such as those of another backbone, are taken to be Detectron2's then.
        about: The file's name. Of some weights it alone says how they were trained.

    Raises:
        WeightsError: The file holds no weights, the source is unknown, or the weights cannot be
            converted.
    """
    if source != "auto" and source not in SOURCES:
        raise WeightsError(f"There is no source '{source}'; known are auto, {', '.join(SOURCES)}.")
    state, dropped = _weights(checkpoint)
    name = recognize(state) if source == "auto" else source
    chosen = SOURCES[name] if name else detectron2
    out = chosen.convert(state, f"{os.path.basename(about)}\n{_config_text(checkpoint)}")
    out.dropped = {**dropped, **out.dropped}
    if chosen is detectron2:
        out.suffixes = out.suffixes or bool(checkpoint.get("matching_heuristics"))
    out.class_names = class_names_of_file(checkpoint)
    if "gn_det" in checkpoint:
        out.known = metadata_from_dict(checkpoint["gn_det"])
        out.source = str(checkpoint["gn_det"].get("source", out.source))
    elif isinstance(config := checkpoint.get("config"), dict):
        out.known = dataclasses.replace(out.known, **preprocessing_of_record(config))
    return out


def save_converted(converted: Converted, path: str) -> None:
    """Write a file that Detectron2 reads as well, whole or not at all.

    Args:
        converted: The weights.
        path: The path of the file, which ends in ``.pkl`` or ``.pth``. Its folder is created.

    Raises:
        WeightsError: The path ends otherwise, or cannot be written to.
    """
    content: dict[str, Any] = {
        "model": dict(converted.state),
        "__author__": "gn_det",
        "matching_heuristics": True,
        **converted.class_names,
        "gn_det": metadata_to_dict(converted.known, converted.source),
    }
    ending = os.path.splitext(path)[1]
    if ending not in _ENDINGS:
        raise WeightsError(f"{path}: converted weights end in .pkl or .pth.")
    if ending == ".pkl":
        content["model"] = {name: _array(value) for name, value in converted.state.items()}
        write: Callable[[BinaryIO], Any] = partial(pickle.dump, content, protocol=4)
    else:
        write = partial(torch.save, content)
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        atomic_write(path, write)
    except OSError as error:
        raise WeightsError(f"{path}: it cannot be written ({error}).") from None


def convert_file(
    source_file: str,
    target_file: str,
    source: str = "auto",
    cfg: CfgNode | None = None,
    *,
    overwrite: bool = False,
) -> tuple[Converted, Report]:
    """Convert a file. It is written only if every norm of the backbone is filled.

    Args:
        source_file: The path or URL of a file of any source.
        target_file: The path of the file to write, which ends in ``.pkl`` or ``.pth``.
        source: A key of :data:`gn_det.checkpoint.sources.SOURCES`, or "auto".
        cfg: The config that the weights are for. Without one they are compared with the backbone
            that they describe themselves; other parts (FPN, heads) are written as they are.
        overwrite: Whether a file at ``target_file`` is replaced. The source itself never is.

    Returns:
        The weights, and what was matched, missing and unused.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: The file cannot be read or converted, the weights do not fit, or there is a
            file in the place of the new one.
    """
    path, digest, _ = parse_path(source_file)
    local = local_file(path, digest)
    _check_target(local, target_file, overwrite)
    checkpoint = load_file(local)
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


def _check_target(source_file: str, target_file: str, overwrite: bool) -> None:
    """Refuse to write over the source, or over another file that nobody said may be replaced."""
    if os.path.splitext(target_file)[1] not in _ENDINGS:
        raise WeightsError(f"{target_file}: converted weights end in .pkl or .pth.")
    if not os.path.lexists(target_file):
        return
    if os.path.isdir(target_file):
        raise WeightsError(f"{target_file}: it is a folder; name a file in it.")
    if os.path.exists(target_file) and os.path.samefile(source_file, target_file):
        raise WeightsError(f"{target_file}: it is the file that is converted; give another name.")
    if not overwrite:
        raise WeightsError(
            f"{target_file}: it exists, and nothing was written. Give another name, or allow to "
            "replace it (--overwrite, overwrite=True)."
        )


def _compare_backbone(converted: Converted) -> Report:
    alone, rest = backbone_alone(converted)
    model = reference_backbone(alone)
    _, keys, report = match(alone, model)
    check_compatible(alone, model, keys, report)
    report.extra = rest
    return report


def _compare(converted: Converted, cfg: CfgNode) -> Report:
    try:
        model = look_at(cfg).model
    except BuildError as error:
        raise error.cause from None
    problems = [p.message for p in check_weights(cfg, converted.known, "It", model) if p.fatal]
    if problems:
        raise WeightsError(" ".join(problems))
    _, keys, report = match(converted, model)
    check_compatible(converted, model, keys, report)
    return report


def backbone_alone(converted: Converted) -> tuple[Converted, list[str]]:
    """Split the weights into those of the backbone and the rest.

    Args:
        converted: The weights of a backbone or of a whole detector.

    Returns:
        The weights of the backbone, whose names begin at it (``stem.conv1.weight``); the names of
        the others, as the file has them.
    """
    state: dict[str, torch.Tensor] = {}
    names: dict[str, str] = {}
    rest: list[str] = []
    for name, value in converted.state.items():
        found = _IN_BACKBONE.search(name)
        if found:
            state[found[1]] = value
            names[found[1]] = converted.name_in_file(name)
        elif not name.startswith("linear."):
            rest.append(converted.name_in_file(name))
        else:
            state[name], names[name] = value, converted.name_in_file(name)
    return dataclasses.replace(converted, state=state, names=names), rest


def reference_backbone(converted: Converted) -> nn.Module:
    """Build the ResNet or VGG that the weights describe: their depth, widths and norm.

    Args:
        converted: The weights of the backbone alone.

    Returns:
        The backbone on the meta device: its parameters have names and shapes, but no values.

    Raises:
        WeightsError: The weights are not those of a whole ResNet or VGG.
    """
    cfg = get_cfg()
    cfg.MODEL.GN.NUM_GROUPS = converted.known.num_groups or 32
    cfg.MODEL.GN.CHANNELS_PER_GROUP = converted.known.channels_per_group or 0
    cfg.MODEL.GN.WEIGHT_STANDARDIZATION = bool(converted.known.weight_standardization)
    is_vgg = any(name.startswith("vgg") for name in converted.state)
    build = build_gn_vgg_backbone if is_vgg else build_gn_resnet_backbone
    (_describe_vgg if is_vgg else _describe_resnet)(cfg, converted)
    with torch.device("meta"):
        return build(cfg, ShapeSpec(channels=3))


def _describe_resnet(cfg: CfgNode, converted: Converted) -> None:
    names = list(converted.state)
    r = cfg.MODEL.RESNETS
    r.DEPTH = converted.known.depth or resnet_depth(names) or 0
    if not r.DEPTH:
        raise WeightsError(
            "It holds no whole ResNet-18, -34, -50, -101 or -152; to see what is in it, give the "
            "config that it is for."
        )
    r.NORM = _norm(converted)
    r.OUT_FEATURES = ["res5"]
    _set_widths(cfg, converted)


def _describe_vgg(cfg: CfgNode, converted: Converted) -> None:
    v, state = cfg.MODEL.VGG, converted.state
    convs = [name for name in state if name.count(".") == 2 and name.endswith(".weight")]
    depths = [depth for depth, counts in NUM_CONVS.items() if sum(counts) == len(convs)]
    if not depths or "vgg1.0.weight" not in state:
        raise WeightsError(
            "It holds no whole VGG-11, -13, -16 or -19; to see what is in it, give the config that "
            "it is for."
        )
    v.DEPTH, v.BASE_CHANNELS = depths[0], len(state["vgg1.0.weight"])
    v.NORM = _norm(converted) if any(".norm." in name for name in state) else ""


def _norm(converted: Converted) -> str:
    norm = converted.known.norm or norm_of_names(list(converted.state)) or "GN"
    # BN's four tensors fill FrozenBN's
    return "FrozenBN" if norm == "BN" else norm


def _set_widths(cfg: CfgNode, converted: Converted) -> None:
    r, bottleneck = cfg.MODEL.RESNETS, cfg.MODEL.RESNETS.DEPTH >= 50
    shapes = {name: value.shape for name, value in converted.state.items() if value.ndim == 4}
    r.RES2_OUT_CHANNELS = 256 if bottleneck else 64
    if "stem.conv1.weight" in shapes:
        r.STEM_OUT_CHANNELS = shapes["stem.conv1.weight"][0]
    if bottleneck and {"res2.0.conv2.weight", "res2.0.conv3.weight"} <= set(shapes):
        channels, r.WIDTH_PER_GROUP = shapes["res2.0.conv2.weight"][:2]
        r.NUM_GROUPS = channels // r.WIDTH_PER_GROUP
        r.RES2_OUT_CHANNELS = shapes["res2.0.conv3.weight"][0]


def _weights(checkpoint: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors by name, and the reasons why other entries are none, by name."""
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f"It holds a {type(checkpoint).__name__}, and no weights by name.")
    places = [p for p in (*_PLACES, *_EMA_PLACES) if isinstance(checkpoint.get(p), Mapping)]
    checkpoint = checkpoint[places[0]] if places else checkpoint
    state: dict[str, torch.Tensor] = {}
    dropped: dict[str, str] = {}
    for name, value in checkpoint.items():
        tensor = _tensor(value)
        if tensor is None:
            kind = value.name if type(value) is Placeholder else type(value).__name__
            dropped[str(name)] = f"no numbers ({shorten(kind)})"
        else:
            state[str(name)] = tensor
    if not state:
        entries = [f"'{shorten(name, 60)}'" for name in dropped]
        raise WeightsError(
            f"It holds no weights; its entries are {and_more(entries, 3) if entries else 'none'}."
        )
    return _without_wrappers(state, dropped), dropped


def _without_wrappers(
    state: dict[str, torch.Tensor], dropped: dict[str, str]
) -> dict[str, torch.Tensor]:
    """Return the weights by the names that they have in a model that nothing is wrapped around."""
    if "n_averaged" in state and len(state) > 1:  # of torch.optim.swa_utils.AveragedModel
        state = {name: value for name, value in state.items() if name != "n_averaged"}
        dropped["n_averaged"] = "count of averaged weights"
    state = {unwrapped(name): value for name, value in state.items()}
    while all(name.startswith("module.") for name in state):  # of DistributedDataParallel
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _tensor(value: object) -> torch.Tensor | None:
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.itemsize <= 8:
        # torch takes no big-endian, no read-only arrays and none with negative strides
        native = value.astype(value.dtype.newbyteorder("="), copy=not value.flags.writeable)
        return torch.from_numpy(np.ascontiguousarray(native).reshape(value.shape))
    return None


def _array(tensor: torch.Tensor) -> np.ndarray:
    # numpy has no bfloat16
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()


def _config_text(checkpoint: Mapping[str, Any]) -> str:
    """Return the config that mmdetection stores, as text."""
    meta = checkpoint.get("meta")
    config = meta.get("config", meta.get("cfg")) if isinstance(meta, Mapping) else None
    return config if isinstance(config, str) else ""
