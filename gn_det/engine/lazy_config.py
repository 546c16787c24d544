"""Reading a LazyConfig: a Python file with model, dataloader, optimizer, lr_multiplier and train.

It is what Detectron2's tools/lazyconfig_train_net.py runs. A Python config is a program: it can do
all that its author can think of. :mod:`gn_det.engine.lazy_run` trains it.
"""

import os
import re
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from typing import Any

from detectron2.config import LazyConfig
from detectron2.utils import comm
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gn_det.config import CfgNode, ConfigError, UnknownKeyError, get_cfg
from gn_det.config.key_rules import key_problems
from gn_det.config.paths import expand_home, is_handled, resolve
from gn_det.config.values import precision_problems
from gn_det.data import WindowedMapper
from gn_det.model_zoo import get_config
from gn_det.utils import did_you_mean

from .setup import fall_back_to_cpu, is_zoo_name

__all__ = [
    "is_lazy",
    "key_paths",
    "load_lazy_config",
    "settings_of",
    "target_of",
    "with_lazy_names",
]

PARTS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")

# a YAML's key -> the name that a LazyConfig has for it
NAMES = {
    "SOLVER.CLIP_GLOBAL_NORM": "train.clip_global_norm",
    "SOLVER.EMA_DECAY": "train.ema_decay",
    "SOLVER.IMS_PER_STEP": "train.ims_per_step",
    "SOLVER.CHECKPOINT_PERIOD": "train.checkpointer.period",
    "SOLVER.KEEP_CHECKPOINTS": "train.checkpointer.max_to_keep",
    "SOLVER.ON_SAVE_ERROR": "train.on_save_error",
    "SOLVER.BEST_METRIC": "train.best_metric",
    "SOLVER.MAX_ITER": "train.max_iter",
    "SOLVER.BASE_LR": "optimizer.lr",
    "SOLVER.AMP.ENABLED": "train.amp.enabled",
    "SOLVER.AMP.DTYPE": "train.amp.dtype",
    "INPUT.WINDOW": "dataloader.train.mapper.window",
    "MODEL.DEVICE": "train.device",
    "MODEL.GN.ALLOW_FROZEN_RANDOM": "train.allow_frozen_random",
    "MODEL.GN.ALLOW_RANDOM_BACKBONE": "train.allow_random_backbone",
    "DATASETS.IGNORE_CLASS_NAMES": "train.ignore_class_names",
    "TEST.EVAL_PERIOD": "train.eval_period",
    "OUTPUT_DIR": "train.output_dir",
    "SEED": "train.seed",
    "DETERMINISTIC": "train.deterministic",
    "INPUT.FORMAT": "model.input_format",
    "INPUT.MASK_FORMAT": "dataloader.train.mapper.instance_mask_format",
    "DATALOADER.NUM_WORKERS": "dataloader.train.num_workers",
}


def is_lazy(config_file: str) -> bool:
    """Return whether a config is a Python file."""
    return config_file.endswith(".py")


def load_lazy_config(config_file: str, opts: list[str]) -> DictConfig:
    """Read a LazyConfig and the options of a command line. This runs the file's code.

    Args:
        config_file: A Python file, or the name of one of gn_det's Python configs.
        opts: The options ``["key=value", ...]`` with keys that exist; ``+key=value`` adds one.

    Returns:
        The config; what ``train`` lacks is as in gn_det's ``common/train.py``. ``train.device`` is
        "cpu" where there is no GPU.

    Raises:
        ConfigError: The file cannot be read or lacks a part, or an option cannot be set.
        FileNotFoundError: There is no such file.
    """
    cfg = _load(config_file)
    missing = [part for part in PARTS if part not in cfg]
    if missing:
        raise ConfigError(
            f"{config_file}: it has no {', '.join(missing)}. A LazyConfig has {', '.join(PARTS)}, "
            "each of them a dict or a LazyCall."
        )
    cfg.train = OmegaConf.merge(get_config("common/train.py").train, cfg.train)
    for option in opts:
        _override(cfg, option)
    _expand_home(cfg)
    _check_references(cfg, config_file)
    settings = settings_of(cfg)
    tests = settings.DATASETS.TEST
    if len(tests) > 1 and "dataset_name" in cfg.dataloader.get("evaluator", ()):
        raise ConfigError(
            f"dataloader.test.dataset.names is {list(tests)}: a LazyConfig evaluates one dataset. "
            "Name one."
        )
    _check_windows(cfg)
    fall_back_to_cpu(settings)
    amp = settings.SOLVER.AMP
    cfg.train.device = settings.MODEL.DEVICE
    cfg.train.amp.enabled, cfg.train.amp.dtype = amp.ENABLED, amp.DTYPE
    for problem in (*key_problems(settings, _values(cfg)), *precision_problems(settings)):
        raise ConfigError(with_lazy_names(problem.message))
    return cfg


def _load(config_file: str) -> DictConfig:
    if is_zoo_name(config_file):
        return get_config(os.path.basename(config_file))
    path = resolve(config_file)  # refuses the web and what does not exist
    try:
        # a handler of PathManager is asked for what the file imports, too
        return LazyConfig.load(config_file if is_handled(config_file) else str(path))
    except SyntaxError as error:
        cause = error.__cause__ if isinstance(error.__cause__, SyntaxError) else error
        # Detectron2 says in words which file it is: this one, or one that it imports
        named = re.match("Config file (.+) has syntax error", str(error))
        file = named[1] if named else cause.filename
        raise ConfigError(f"{file}:{cause.lineno}: it is not Python: {cause.msg}.") from None
    except ImportError as error:
        raise ConfigError(f"{config_file}: {error}") from error


def _expand_home(node: DictConfig | ListConfig) -> None:
    """Replace ``~`` in each text of a config, in place."""
    for key in node if isinstance(node, DictConfig) else range(len(node)):
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        value = node[key]
        if OmegaConf.is_config(value):
            _expand_home(value)
        elif (expanded := expand_home(value)) != value:
            node[key] = expanded


def _check_references(cfg: DictConfig, config_file: str) -> None:
    """Refuse a reference such as ``${model.input_format}`` to what is not there."""
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{config_file}: {error.full_key}: {reason}") from None


def _override(cfg: DictConfig, option: str) -> None:
    """Set one ``key=value``, in place."""
    key, equals, _ = option.partition("=")
    if option.startswith("--"):
        raise ConfigError(
            f"Command line: {option} stands where a key=value belongs. Options go before all of "
            "them."
        )
    if not equals:
        raise ConfigError(
            f"Command line: options of a Python config are key=value, such as "
            f"train.max_iter=100, but {option!r} was given."
        )
    new, key = key.startswith("+"), key.removeprefix("+")
    known = list(key_paths(OmegaConf.to_container(cfg)))
    if key not in known and not new:
        raise UnknownKeyError(
            f"Command line: there is no key {key}.{did_you_mean(key, known)} +{option} would add "
            "it.",
            key,
        )
    try:
        before = OmegaConf.select(cfg, key)
        LazyConfig.apply_overrides(cfg, [option])
        after = OmegaConf.select(cfg, key)
    except (OmegaConfBaseException, KeyError, ValueError, SyntaxError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"Command line: {option!r} cannot be set: {reason}") from None
    except Exception as error:
        # hydra, which parses the options where it is installed, has errors of its own
        if not type(error).__module__.startswith("hydra"):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"Command line: {option!r} cannot be read: {reason}") from None
    if type(before) is int and type(after) is float and after.is_integer():
        after = int(after)  # train.max_iter=9e4
        OmegaConf.update(cfg, key, after)
    if _is_other_type(before, after):
        raise ConfigError(
            f"Command line: {key} is {before!r} in the config; {after!r} is of another type."
        )


def key_paths(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the path of each key of nested dicts and lists, of groups as well.

    Args:
        node: A dict or a list; the items of a list go by their number.
        prefix: The path of the node itself, with a dot at the end.
    """
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield f"{prefix}{key}"
        if isinstance(value, dict | list):
            yield from key_paths(value, f"{prefix}{key}.")


def _is_other_type(before: object, after: object) -> bool:
    if isinstance(before, DictConfig) != isinstance(after, DictConfig):
        return before is not None
    plain = (bool, int, float, str)
    if not isinstance(before, plain) or not isinstance(after, plain):
        return False
    return type(before) is not type(after) and (type(before), type(after)) != (float, int)


def _values(cfg: DictConfig) -> dict[str, Any]:
    """Return the value of each of ``NAMES``. What parts of a user's own lack is left out."""
    values = {key: OmegaConf.select(cfg, name) for key, name in NAMES.items()}
    in_train = {key for key, name in NAMES.items() if name.startswith("train.")}
    return {k: value for k, value in values.items() if value is not None or k in in_train}


def settings_of(cfg: DictConfig) -> CfgNode:
    """Return what a LazyConfig says of solver, run, data and pixels, under the keys of a YAML.

    Checks and the set-up of a run read these keys. The network is not among them: the model that
    was built is asked.

    Args:
        cfg: A LazyConfig, as :func:`load_lazy_config` returns it.
    """
    values = _values(cfg)
    values["SOLVER.KEEP_CHECKPOINTS"] = values["SOLVER.KEEP_CHECKPOINTS"] or 0  # None keeps all
    values["INPUT.WINDOW"] = tuple(values.get("INPUT.WINDOW", ()))
    values.update(_augmentation_keys(cfg))
    batch = OmegaConf.select(cfg, "dataloader.train.total_batch_size")
    values["SOLVER.IMS_PER_BATCH"] = batch or comm.get_world_size()
    for split in ("train", "test"):
        names = OmegaConf.select(cfg, f"dataloader.{split}.dataset.names") or ()
        names = (names,) if isinstance(names, str) else tuple(names)
        values[f"DATASETS.{split.upper()}"] = names
    filter_empty = OmegaConf.select(cfg, "dataloader.train.dataset.filter_empty", default=True)
    values["DATALOADER.FILTER_EMPTY_ANNOTATIONS"] = filter_empty
    values["MODEL.MASK_ON"] = OmegaConf.select(cfg, "model.roi_heads.mask_head") is not None
    # None where a model of a user's own has no such argument
    values["MODEL.PIXEL_MEAN"] = OmegaConf.select(cfg, "model.pixel_mean")
    values["MODEL.PIXEL_STD"] = OmegaConf.select(cfg, "model.pixel_std")
    values["INPUT.FORMAT"] = OmegaConf.select(cfg, "model.input_format")
    values["MODEL.BACKBONE.NAME"] = "of the Python config"
    for name in ("roi_heads.box_predictor.test_topk_per_image", "max_detections_per_image"):
        returned = OmegaConf.select(cfg, f"model.{name}")  # R-CNN's, RetinaNet's
        if isinstance(returned, int):
            values["TEST.DETECTIONS_PER_IMAGE"] = returned
    evaluator = cfg.dataloader.get("evaluator")  # a list where there are several
    counted = evaluator.get("max_detections") if isinstance(evaluator, DictConfig) else None
    values["TEST.MAX_DETECTIONS"] = counted or 0
    classes = OmegaConf.select(cfg, "model.roi_heads.num_classes")
    if classes is None:
        values["MODEL.META_ARCHITECTURE"] = "other"  # its number of classes is not known
    else:
        values["MODEL.ROI_HEADS.NUM_CLASSES"] = classes
    settings = get_cfg()
    for key, value in values.items():
        *groups, name = key.split(".")
        reduce(getitem, groups, settings)[name] = value
    return settings


def _augmentation_keys(cfg: DictConfig) -> Iterator[tuple[str, Any]]:
    """Yield the keys for the augmentations of the mappers; the sizes are 0 without a resizing."""
    for split in ("train", "test"):
        steps = OmegaConf.select(cfg, f"dataloader.{split}.mapper.augmentations") or ()
        steps = [step for step in steps if isinstance(step, DictConfig)]
        resize = [step for step in steps if "short_edge_length" in step] or [{}]
        sides = resize[0].get("short_edge_length", 0)
        sides = sides if isinstance(sides, int) else tuple(sides)
        yield f"INPUT.MIN_SIZE_{split.upper()}", sides
        yield f"INPUT.MAX_SIZE_{split.upper()}", resize[0].get("max_size", 0)
        if split == "train":
            yield "INPUT.CROP.ENABLED", any("Crop" in str(step.get("_target_")) for step in steps)


def _check_windows(cfg: DictConfig) -> None:
    """Let the test mapper have the window of the training's, in place, and no other one."""
    test = OmegaConf.select(cfg, "dataloader.test.mapper")
    window = OmegaConf.select(cfg, "dataloader.train.mapper.window") or ()
    target = target_of(test)
    ours = isinstance(target, type) and issubclass(target, WindowedMapper)
    if window and ours and test.get("window") is None:
        test.window = window
    other = OmegaConf.select(cfg, "dataloader.test.mapper.window") or ()
    if tuple(other) != tuple(window):
        raise ConfigError(
            f"dataloader.train.mapper.window is {list(window)}, but dataloader.test.mapper.window "
            f"is {list(other)}: the model would be tested on other pixels than it was trained on. "
            "Set both to the same, with gn_det.data.WindowedMapper as the mapper of both."
        )


def target_of(node: DictConfig | ListConfig | None) -> Any:
    """Return what a node of a LazyConfig calls; None where it calls nothing.

    Args:
        node: The node, whose ``_target_`` may be a name.
    """
    target = OmegaConf.select(node, "_target_") if isinstance(node, DictConfig) else None
    return locate(target) if isinstance(target, str) else target


def with_lazy_names(message: str) -> str:
    """Return a message about a YAML's keys with the names that a LazyConfig has for them."""
    message = re.sub(r" \(in a Python config [\w.]+\)", "", message)
    for key, name in {**NAMES, "MODEL.WEIGHTS": "train.init_checkpoint"}.items():
        key = rf"(?<![\w/.-]){re.escape(key)}(?![\w/-])"  # not a part of a path
        message = re.sub(rf"{key} (?=[\"'])", f"{name}=", message)  # an option of a command line
        message = re.sub(key, name, message)
    return message
