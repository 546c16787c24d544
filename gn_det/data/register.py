"""Registers the datasets that a config brings along: ``DATASETS.REGISTER``."""

import os

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from gn_det.config import ConfigError

__all__ = ["register_datasets"]

FORM = "DATASETS.REGISTER is a list of [name, json file, folder of images]"


def register_datasets(cfg: CfgNode) -> None:
    """Register ``cfg.DATASETS.REGISTER`` with Detectron2; the tools do so when they read a config.

    No file is looked at. What is registered already, with the same paths, stays.

    Raises:
        ConfigError: an entry of another form, or the name of another dataset.
    """
    for entry in cfg.DATASETS.REGISTER:
        texts = isinstance(entry, list | tuple) and all(isinstance(x, str) and x for x in entry)
        if not texts or len(entry) != 3:
            raise ConfigError(f"{FORM}, and not {entry!r}.")
        name, *paths = entry
        json_file, image_root = map(os.path.expanduser, paths)
        if name not in DatasetCatalog.list():
            register_coco_instances(name, {}, json_file, image_root)
            continue
        there = MetadataCatalog.get(name)
        if (there.get("json_file"), there.get("image_root")) != (json_file, image_root):
            raise ConfigError(
                f"DATASETS.REGISTER {name}: another dataset has this name "
                f"({there.get('json_file') or 'not of a json'}). Take another name."
            )
