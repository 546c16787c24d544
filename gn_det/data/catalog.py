"""Names of datasets: registers those of a config, and finds the json and images of a name."""

import os
from typing import NamedTuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from gn_det.config import ConfigError, require_gn_config
from gn_det.utils import did_you_mean

from .embedded.registration import ensure_dataset
from .errors import DatasetError
from .formats import FORMATS

__all__ = ["DatasetPaths", "json_of", "layout_hint", "locate_dataset", "register_datasets"]

# the layout that Detectron2's builtin COCO datasets expect
COCO_LAYOUT = """\
    {root}/coco/annotations/instances_train2017.json, instances_val2017.json
    {root}/coco/train2017/*.jpg
    {root}/coco/val2017/*.jpg"""
ENTRY_FORM = (
    "DATASETS.REGISTER is a list of [name, json file, folder of images], with the name of a format "
    f"({', '.join(FORMATS)}) as a fourth item where it is not COCO's"
)


class DatasetPaths(NamedTuple):
    """Where a dataset is.

    Attributes:
        json_file: The path of its COCO json.
        image_root: The path of its folder of images.
    """

    json_file: str
    image_root: str


def register_datasets(cfg: CfgNode) -> None:
    """Register ``cfg.DATASETS.REGISTER`` with Detectron2; the commands do so for each config.

    No file is read. A dataset that is registered already, with the same paths, stays as it is.

    Args:
        cfg: A config with gn_det's keys.

    Raises:
        ConfigError: An entry has another form, or the name of another dataset; or the config lacks
            gn_det's keys.
    """
    require_gn_config(cfg)
    for entry in cfg.DATASETS.REGISTER:
        texts = isinstance(entry, list | tuple) and all(isinstance(x, str) and x for x in entry)
        if not texts or len(entry) not in (3, 4):
            raise ConfigError(f"{ENTRY_FORM}. It cannot hold {entry!r}.")
        name, *paths, format_name = entry if len(entry) == 4 else (*entry, "coco")
        if format_name not in FORMATS:
            raise ConfigError(
                f"DATASETS.REGISTER {name}: there is no format {format_name!r}. "
                f"Choose one of {', '.join(FORMATS)}."
            )
        annotations, image_root = map(os.path.expanduser, paths)
        if name not in DatasetCatalog.list():
            FORMATS[format_name](name, annotations, image_root)
            continue
        known = MetadataCatalog.get(name)
        known_annotations = known.get("json_file") or known.get("annotations")
        if (known_annotations, known.get("image_root")) != (annotations, image_root):
            raise ConfigError(
                f"DATASETS.REGISTER {name}: another dataset has this name "
                f"({known_annotations or 'it has no json'}). Choose another name."
            )


def locate_dataset(name_or_json: str, image_root: str | None = None) -> DatasetPaths:
    """Find the json and the images of a dataset. A missing embedded dataset is built.

    Args:
        name_or_json: The name of a registered dataset, or the path of a COCO json.
        image_root: The folder of its images. None means the registered one, or the json's folder.

    Raises:
        DatasetError: There is no such name and no such file, or the dataset has no json.
    """
    name = name_or_json
    if name not in DatasetCatalog.list():
        if not os.path.lexists(name):
            raise DatasetError(f"{name} is no file, and {_unknown_name(name)}")
        return DatasetPaths(name, image_root or os.path.dirname(name) or ".")
    json_file = json_of(name)
    if json_file is None:
        raise DatasetError(f"{name} has no json_file: only COCO's format can be checked.")
    return DatasetPaths(json_file, image_root or MetadataCatalog.get(name).get("image_root") or ".")


def json_of(name: str) -> str | None:
    """Return the json of a registered dataset. A missing embedded dataset is built.

    Args:
        name: The name of a registered dataset.

    Returns:
        The path; None where the metadata has none, because the dataset is a list of dicts.

    Raises:
        DatasetError: There is no such dataset, or its json is missing. The message begins with
            the name.
    """
    if name not in DatasetCatalog.list():
        raise DatasetError(f"{name}: {_unknown_name(name)}")
    ensure_dataset(name)
    json_file = MetadataCatalog.get(name).get("json_file")
    if json_file is not None and not os.path.isfile(json_file):
        raise DatasetError(f"{name}: its annotations {json_file} are missing.{layout_hint(name)}")
    return json_file


def _unknown_name(name: str) -> str:
    return f"there is no dataset of this name.{did_you_mean(name, DatasetCatalog.list())}"


def layout_hint(name: str) -> str:
    """Return where Detectron2 looks for COCO; ``""`` for another dataset.

    Args:
        name: The name of a registered dataset.
    """
    if not name.startswith("coco_"):
        return ""
    root = os.getenv("DETECTRON2_DATASETS", "datasets")
    state = "set to" if "DETECTRON2_DATASETS" in os.environ else "not set, so it is"
    return (
        f" Detectron2 looks below the environment variable DETECTRON2_DATASETS ({state} "
        f"{root!r}) for\n{COCO_LAYOUT.format(root=root)}"
    )
