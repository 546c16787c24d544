"""What a checkpoint records of its run's config, and which changes a resumed run allows.

The values of all keys but the folder's are in the entry "config" of a checkpoint. A resumed run
compares them with its own: it names each key that has another value, obeys it, and refuses what
would make another run of it. Checkpoints of earlier versions have no such entry: the run's own
values count.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from detectron2.utils import comm
from torch import nn

from gn_det.checkpoint import Report
from gn_det.config import ConfigError, flatten, get_cfg
from gn_det.utils import and_more, shorten

__all__ = ["RunRecord", "plain_values"]

logger = logging.getLogger(__name__)

# the key of a YAML and of a Python config
SEED_KEYS = ("SEED", "train.seed")
WEIGHTS_KEYS = ("MODEL.WEIGHTS", "train.init_checkpoint")
FOLDER_KEYS = ("OUTPUT_DIR", "train.output_dir")
MICRO_BATCH = "images per micro-batch"
MODEL_KEY = re.compile(r"(MODEL|model)\.")
SOLVER_KEY = re.compile(r"(SOLVER|PRETRAIN|optimizer|lr_multiplier|train|dataloader\.train)\.")
# Keys that change what weights of the same shapes compute.
MEANING_KEY = re.compile(
    r"INPUT\.(FORMAT|WINDOW)|MODEL\.(META_ARCHITECTURE|PIXEL_\w+|ANCHOR_GENERATOR\..+"
    r"|GN\.(NUM_GROUPS|CHANNELS_PER_GROUP|EPS|WEIGHT_STANDARDIZATION)"
    r"|.+\.((HEAD_)?NAME|NORM|DEPTH|NUM_GROUPS|STRIDE_IN_1X1|RES5_DILATION|FUSE_TYPE|\w*IN_FEATURES"
    r"|BBOX_REG_WEIGHTS|POOLER_\w+|CLS_AGNOSTIC_BBOX_REG))"
    r"|dataloader\.train\.mapper\.window"
    r"|model\.(input_format|pixel_\w+|.*(_target_|norm|num_groups|channels_per_group|eps|depth|fuse_type"
    r"|stride\w*|in_features|box_in_features|anchor_generator\..+|box2box_transform\..+"
    r"|\w*pooler\..+))"
)


class RunRecord:
    """The values of a run's config, as a checkpoint holds them.

    Args:
        values: The value of each key.

    Attributes:
        changes: The old and the new value of each key that differs in a resumed run. None before
            :meth:`compare`, and where the checkpoint has no record.
    """

    def __init__(self, values: Mapping[str, Any]):
        # a run may go on in another folder
        self.values = {k: v for k, v in plain_values(values) if k not in FOLDER_KEYS}
        self.changes: dict[str, tuple[Any, Any]] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return numbers, texts and lists by key."""
        return self.values

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: :meth:`compare` has seen it already."""

    def compare(self, entries: Mapping[str, Any], report: Report, model: nn.Module) -> None:
        """Compare a checkpoint with the run that resumes it, before anything is loaded.

        Args:
            entries: The entries of the checkpoint, with "config".
            report: How the weights of the checkpoint fit the model.
            model: The model that is to be filled.

        Raises:
            ConfigError: The checkpoint is of another model, or a key was changed that a run cannot
                change.
        """
        saved = entries.get("config")
        self.changes = self._changes(saved) if isinstance(saved, dict) else None
        changes = self.changes or {}
        if found := _other_tensors(report, model):
            keys = [_change(key, changes) for key in changes if MODEL_KEY.match(key)]
            cause = f" Changed since: {', '.join(keys)}." if keys else ""
            raise ConfigError(
                f"The run to resume is of another network: {found}.{cause} Set the MODEL keys of "
                f"that run; {_NEW_RUN}"
            )
        for key, (old, new) in changes.items():
            if MEANING_KEY.fullmatch(key):
                raise ConfigError(
                    f"{_change(key, changes)}: with the new value the weights of the run to resume "
                    f"compute something else. Set {key} {_text(old)}, or start a new run in "
                    "another OUTPUT_DIR."
                )
            if key in SEED_KEYS and new is not None and new >= 0:
                raise ConfigError(
                    f"{_change(key, changes)}: the order of the images and the random numbers of a "
                    f"run follow from its seed, which cannot change in it. Set {key} -1: the "
                    "run keeps its seed."
                )

    def _changes(self, saved: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        defaults = dict(plain_values(dict(flatten(get_cfg()))))
        saved, now = {**defaults, **saved}, {**defaults, **self.values}
        pairs = {key: (saved.get(key), now.get(key)) for key in {**now, **saved}}
        return {key: (old, new) for key, (old, new) in pairs.items() if old != new}

    def solver_changed(self) -> bool:
        """Return whether the learning rate and the optimizer have to follow the config's values."""
        return self.changes is None or any(SOLVER_KEY.match(key) for key in self.changes)

    def report(self) -> None:
        """Say in the main process which keys have changed, one in a line."""
        if not comm.is_main_process():
            return
        if self.changes is None:
            logger.info(
                "The checkpoint is of an earlier version, and does not say which config it was "
                "trained with: the values of this config count."
            )
        if not self.changes:
            return
        lines = []
        for key in self.changes:
            note = ""
            if key in WEIGHTS_KEYS:
                note = " (not loaded: the run continues from its own weights)"
            elif key in SEED_KEYS:
                note = " (the run keeps its seed)"
            lines.append(f"\n  {_change(key, self.changes)}{note}")
        logger.warning(f"The run continues with changed keys:{''.join(lines)}")


_NEW_RUN = "or start a new run from its weights, with MODEL.WEIGHTS and another OUTPUT_DIR."


def plain_values(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each key of nested dicts with its value as numbers, texts and lists.

    Args:
        values: The dict. A list of dicts counts as a dict by number.
        prefix: The key of the dict itself, with a dot at the end.
    """
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            yield from plain_values(value, f"{key}.")
        else:
            yield key, _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _change(key: str, changes: Mapping[str, tuple[Any, Any]]) -> str:
    old, new = changes[key]
    texts = ["(not set)" if value is None else _text(value) for value in (old, new)]
    return f"{key} {' -> '.join(texts)}"


def _text(value: Any) -> str:
    return shorten(repr(value) if isinstance(value, str) and not value else value)


def _other_tensors(report: Report, model: nn.Module) -> str:
    """Say which parameters differ between a checkpoint and a model; "" where none does."""
    parameters = {name for name, _ in model.named_parameters()}
    if missing := [name for name in report.missing if name in parameters]:
        return f"it has no {and_more(missing)}"
    # of buffers, an earlier version may have had other ones
    if extra := [name for name in report.unused if name.endswith((".weight", ".bias"))]:
        return f"it has {and_more(extra)}, which this config has not"
    for name, theirs, ours in report.shape_mismatch:
        return f"{name} has the shape {theirs} there and {ours} here"
    return ""
