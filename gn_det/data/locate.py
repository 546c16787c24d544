"""From the name of a dataset, or the path of its json, to its json and its folder of images."""

import difflib
import os
from typing import NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog

from gn_det.data.embedded.registration import ensure_dataset

from .errors import DatasetError

__all__ = ["Located", "json_of", "locate_dataset"]

# the layout that Detectron2's builtin COCO datasets expect
COCO_LAYOUT = """\
    {root}/coco/annotations/instances_train2017.json, instances_val2017.json
    {root}/coco/train2017/*.jpg
    {root}/coco/val2017/*.jpg"""


class Located(NamedTuple):
    """Where a dataset is."""

    json_file: str
    image_root: str


def locate_dataset(name_or_json: str, image_root: str | None = None) -> Located:
    """Find a dataset; one of gn_det's own is built where it is missing.

    Args:
        name_or_json: a registered name, or the path of a COCO json.
        image_root: the folder of its images. None stands for the registered one, or for the
            json's folder.

    Raises:
        DatasetError: neither a name nor a file, or the dataset has no json.
    """
    name = name_or_json
    if name not in DatasetCatalog.list():
        if not os.path.lexists(name):
            raise DatasetError(f"{name} is no file, and {unknown_name(name)}")
        return Located(name, image_root or os.path.dirname(name) or ".")
    json_file = json_of(name)
    if json_file is None:
        raise DatasetError(f"{name} has no json_file: only COCO's format can be checked.")
    return Located(json_file, image_root or MetadataCatalog.get(name).get("image_root") or ".")


def json_of(name: str) -> str | None:
    """Return the json of a registered dataset; one of gn_det's own is built where it is missing.

    Returns:
        The path, None where the metadata has none: the dataset is a list of dicts.

    Raises:
        DatasetError: there is no such dataset, or its json is missing; it starts with the name.
    """
    if name not in DatasetCatalog.list():
        raise DatasetError(f"{name}: {unknown_name(name)}")
    ensure_dataset(name)
    json_file = MetadataCatalog.get(name).get("json_file")
    if json_file is not None and not os.path.isfile(json_file):
        raise DatasetError(f"{name}: its annotations {json_file} are missing.{layout_hint(name)}")
    return json_file


def unknown_name(name: str) -> str:
    """Return what to say of a name that is not registered."""
    close = difflib.get_close_matches(name, DatasetCatalog.list(), n=3)
    meant = f" Was {' or '.join(close)} meant?" if close else ""
    return f"there is no dataset of this name.{meant}"


def layout_hint(name: str) -> str:
    """Return where Detectron2 looks for COCO; "" for another dataset."""
    if not name.startswith("coco_"):
        return ""
    root = os.getenv("DETECTRON2_DATASETS", "datasets")
    state = "set to" if "DETECTRON2_DATASETS" in os.environ else "not set, so it is"
    return (
        f" Detectron2 looks below the environment variable DETECTRON2_DATASETS ({state} "
        f"{root!r}) for\n{COCO_LAYOUT.format(root=root)}"
    )
