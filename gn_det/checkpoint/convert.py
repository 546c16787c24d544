"""From what a file holds to weights in Detectron2's names: recognize the source, rename.

convert({"blobs": {"conv1_w": ...}, "cfg": "..."}).state["stem.conv1.weight"]
"""

import os
import pickle
import re
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .converted import Converted, metadata_from_dict, metadata_to_dict
from .errors import WeightsError
from .sources import SOURCES, detectron2

__all__ = ["convert", "recognize", "save_converted"]

# where files keep the weights, when they hold other things as well
_PLACES = ("model", "blobs", "state_dict", "model_state")


def recognize(state: Mapping[str, object]) -> str | None:
    """Return the key of :data:`SOURCES` whose names ``state`` has; None where none knows them."""
    return next((name for name, source in SOURCES.items() if source.matches(state)), None)


def convert(checkpoint: Mapping[str, Any], source: str = "auto", about: str = "") -> Converted:
    """Convert a loaded file.

    Args:
        checkpoint: what the file holds: the weights themselves, or a dict with them under
            "model", "blobs" (Detectron), "state_dict" (mmdetection) or "model_state" (pycls).
        source: a key of :data:`SOURCES`. "auto" goes by the names; weights that no source knows,
            such as those of another backbone, are taken to be Detectron2's then.
        about: the file's name: of some weights it alone says how they were trained.

    Raises:
        WeightsError: no weights in it, an unknown source, or weights that cannot be converted.
    """
    if source != "auto" and source not in SOURCES:
        raise WeightsError(f"There is no source '{source}'; known are auto, {', '.join(SOURCES)}.")
    state, dropped = _weights(checkpoint)
    chosen = SOURCES.get(recognize(state) if source == "auto" else source, detectron2)
    out = chosen.convert(state, f"{os.path.basename(about)}\n{_config_text(checkpoint)}")
    out.dropped = {**dropped, **out.dropped}
    if chosen is detectron2:
        out.suffixes = out.suffixes or bool(checkpoint.get("matching_heuristics"))
    if "gn_det" in checkpoint:
        out.known = metadata_from_dict(checkpoint["gn_det"])
        out.source = str(checkpoint["gn_det"].get("source", out.source))
    return out


def save_converted(converted: Converted, path: str) -> None:
    """Write a file that Detectron2 reads as well, ``.pkl`` or ``.pth``. All of it or nothing.

    Raises:
        WeightsError: another ending, or a folder that cannot be written to.
    """
    content = {
        "model": dict(converted.state),
        "__author__": "gn_det",
        "matching_heuristics": True,
        "gn_det": metadata_to_dict(converted.known, converted.source),
    }
    ending = os.path.splitext(path)[1]
    if ending not in (".pkl", ".pth"):
        raise WeightsError(f"{path}: converted weights end in .pkl or .pth.")
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as f:
            try:
                if ending == ".pth":
                    torch.save(content, f)
                else:
                    content["model"] = {k: _array(v) for k, v in content["model"].items()}
                    pickle.dump(content, f, protocol=4)
                f.flush()
                # a temporary file is for its owner alone; a result is for whom umask says
                umask = os.umask(0)
                os.umask(umask)
                os.chmod(f.name, 0o666 & ~umask)
                os.replace(f.name, path)
            except BaseException:
                os.unlink(f.name)
                raise
    except OSError as error:
        raise WeightsError(f"{path}: it cannot be written ({error}).") from None


def _weights(checkpoint: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors, and name -> reason of entries that are none."""
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f"It holds a {type(checkpoint).__name__}, and no weights by name.")
    for place in _PLACES:
        if isinstance(checkpoint.get(place), Mapping):
            checkpoint = checkpoint[place]
            break
    state, dropped = {}, {}
    for name, value in checkpoint.items():
        tensor = _tensor(value)
        if tensor is None:
            dropped[str(name)] = f"no numbers ({type(value).__name__})"
        else:
            state[str(name)] = tensor
    if not state:
        raise WeightsError(
            f"It holds no weights; its entries are {_some(dropped) if dropped else 'none'}."
        )
    if all(name.startswith("module.") for name in state):  # of DistributedDataParallel
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state, dropped


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


def _some(names: Mapping[str, object]) -> str:
    shown = [re.sub(r"[^ -~]", "?", name)[:60] for name in list(names)[:3]]
    return ", ".join(f"'{name}'" for name in shown) + (", ..." if len(names) > 3 else "")
