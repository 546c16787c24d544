"""Checks of the datasets that a config names, before any work is done on them."""

import difflib
import json
import logging
import os
from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from gn_det.config import ConfigError

from .builtin import ensure_dataset

__all__ = ["DatasetError", "check_datasets", "check_images"]

logger = logging.getLogger(__name__)

# the layout that Detectron2's builtin COCO datasets expect
COCO_LAYOUT = """\
    {root}/coco/annotations/instances_train2017.json, instances_val2017.json
    {root}/coco/train2017/*.jpg
    {root}/coco/val2017/*.jpg"""


class DatasetError(ConfigError):
    """A dataset that is unknown, missing, or does not fit the config."""


def check_datasets(cfg: CfgNode, *, training: bool = True) -> None:
    """Check that the datasets of a config are known and there, and that the classes fit.

    gn_det's own datasets are built where they are missing.

    Args:
        cfg: a finished config.
        training: look at ``DATASETS.TRAIN`` as well as at ``DATASETS.TEST``.

    Raises:
        DatasetError: with one line for each problem.
    """
    keys = ["DATASETS.TRAIN", "DATASETS.TEST"] if training else ["DATASETS.TEST"]
    problems = []
    if training and not cfg.DATASETS.TRAIN:
        problems.append("DATASETS.TRAIN is empty: there is nothing to train on.")
    for key in keys:
        for name in cfg.DATASETS[key.rpartition(".")[2]]:
            problems += (f"{key} {name}: {problem}" for problem in _problems(cfg, name))
    if problems:
        raise DatasetError("\n".join(problems))


def check_images(dicts: list[dict], where: str) -> None:
    """Check that every image file is there, by one listing a folder.

    Args:
        dicts: Detectron2's dataset dicts.
        where: the config key and the names of the datasets, for the message.

    Raises:
        DatasetError: files are missing; the message has their number and the first of them.
    """
    listings: dict[str, set[str]] = {}
    missing = []
    for record in dicts:
        folder, name = os.path.split(record["file_name"])
        if folder not in listings:
            try:
                listings[folder] = set(os.listdir(folder or "."))
            except OSError:
                listings[folder] = set()
        if name not in listings[folder]:
            missing.append(record["file_name"])
    if missing:
        shown = "".join(f"\n    {name}" for name in missing[:5])
        raise DatasetError(
            f"{where}: {len(missing)} of {len(dicts)} images are missing, first of all:{shown}"
        )


def _problems(cfg: CfgNode, name: str) -> Iterator[str]:
    if name not in DatasetCatalog.list():
        close = difflib.get_close_matches(name, DatasetCatalog.list(), n=3)
        meant = f" Was {' or '.join(close)} meant?" if close else ""
        yield (
            f"there is no dataset of this name.{meant} Register your own by "
            "detectron2.data.datasets.register_coco_instances(name, {}, json_file, image_root) "
            "before the config is checked."
        )
        return
    ensure_dataset(name)
    metadata = MetadataCatalog.get(name)
    json_file = metadata.get("json_file")
    if json_file is not None and not os.path.isfile(json_file):
        yield f"its annotations {json_file} are missing.{_layout(name)}"
        return
    image_root = metadata.get("image_root")
    if image_root is not None and not os.path.isdir(image_root):
        yield f"its folder of images {image_root} is missing.{_layout(name)}"
        return
    yield from _class_problems(cfg, name)


def _layout(name: str) -> str:
    if not name.startswith("coco_"):
        return ""
    root = os.getenv("DETECTRON2_DATASETS", "datasets")
    state = "set to" if "DETECTRON2_DATASETS" in os.environ else "not set, so it is"
    return (
        f" Detectron2 looks below the environment variable DETECTRON2_DATASETS ({state} "
        f"{root!r}) for\n{COCO_LAYOUT.format(root=root)}"
    )


def _class_problems(cfg: CfgNode, name: str) -> Iterator[str]:
    classes = MetadataCatalog.get(name).get("thing_classes")
    json_file = MetadataCatalog.get(name).get("json_file")
    if classes is None and json_file is not None:
        # register_coco_instances learns the classes only when the dataset is loaded
        with open(json_file) as f:
            classes = [c["name"] for c in json.load(f).get("categories", [])]
    if classes is None:
        return
    key = {
        "GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
        "RetinaNet": "MODEL.RETINANET.NUM_CLASSES",
        "FCOS": "MODEL.FCOS.NUM_CLASSES",
    }.get(cfg.MODEL.META_ARCHITECTURE)
    if key is None:
        return
    node = cfg
    for part in key.split("."):
        if part not in node:
            return
        node = node[part]
    shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    message = (
        f"it has {len(classes)} classes ({shown}), but {key} is {node}. Set {key} {len(classes)}."
    )
    if node < len(classes):
        yield message
    elif node > len(classes):  # trains, with outputs that no object of this dataset ever uses
        logger.warning(f"{name}: {message}")
