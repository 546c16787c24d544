"""The sources of pre-training data: what ``PRETRAIN.DATASET`` can name."""

from collections.abc import Callable, Iterator

from detectron2.config import CfgNode

from gn_det.config import ConfigError, require_gn_config
from gn_det.data.checks.config_datasets import on_one_process
from gn_det.data.errors import DatasetError

from .digit_crops import photo_digit_crops
from .fashion_mnist import fashion_mnist
from .image_folder import check_image_folders, image_folder
from .labelled_data import LabelledSplit
from .moving_digits import moving_digits

__all__ = ["SOURCES", "check_labelled_data", "labelled_split"]

# PRETRAIN.DATASET -> the function from (cfg, "train" or "val") to that split
SOURCES: dict[str, Callable[[CfgNode, str], LabelledSplit]] = {
    "image_folder": image_folder,
    "fashion_mnist": fashion_mnist,
    "photo_digit_crops": photo_digit_crops,
    "moving_digits": moving_digits,
}


def labelled_split(cfg: CfgNode, split: str) -> LabelledSplit:
    """Return a split of ``PRETRAIN.DATASET`` with ``PRETRAIN.{TRAIN,VAL}_IMAGES`` images.

    Args:
        cfg: A config with gn_det's keys.
        split: The name of the split: "train" (augmented) or "val".

    Raises:
        ConfigError: The source is unknown, or has fewer images.
        DatasetError: The data are missing or damaged.
    """
    data = _source(cfg)(cfg, split)
    key = f"{split.upper()}_IMAGES"
    count = cfg.PRETRAIN[key]
    if count == 0:
        return data
    if not 0 < count <= len(data):
        raise ConfigError(
            f"PRETRAIN.{key} is {count}: {cfg.PRETRAIN.DATASET} has {len(data)}. 0 uses them all."
        )
    return data.first(count)


def _source(cfg: CfgNode) -> Callable[[CfgNode, str], LabelledSplit]:
    require_gn_config(cfg)
    name = cfg.PRETRAIN.DATASET
    if name not in SOURCES:
        raise ConfigError(f"PRETRAIN.DATASET is {name!r}. Choose one of {', '.join(SOURCES)}.")
    return SOURCES[name]


def check_labelled_data(cfg: CfgNode, *, training: bool = True) -> None:
    """Check that the data exist and have ``MODEL.CLASSIFIER.NUM_CLASSES`` classes.

    One process of each machine reads the files.

    Args:
        cfg: A config with gn_det's keys.
        training: Whether to check train as well as val.

    Raises:
        ConfigError: The source is unknown.
        DatasetError: There is a problem. The message is one line.
    """
    _source(cfg)
    problems = on_one_process(lambda: list(_problems(cfg, training)))
    if problems:
        raise DatasetError(problems[0])


def _problems(cfg: CfgNode, training: bool) -> Iterator[str]:
    try:
        if cfg.PRETRAIN.DATASET == "image_folder":
            check_image_folders(cfg, training=training)
        else:
            _check_splits(cfg, ("train", "val") if training else ("val",))
    except DatasetError as error:
        yield str(error)


def _check_splits(cfg: CfgNode, splits: tuple[str, ...]) -> None:
    for split in splits:
        classes = labelled_split(cfg, split).num_classes
        if classes != cfg.MODEL.CLASSIFIER.NUM_CLASSES:
            raise DatasetError(
                f"PRETRAIN.DATASET {cfg.PRETRAIN.DATASET} has {classes} classes, but "
                f"MODEL.CLASSIFIER.NUM_CLASSES is {cfg.MODEL.CLASSIFIER.NUM_CLASSES}. "
                f"Set it to {classes}."
            )
