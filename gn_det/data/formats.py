"""Formats of datasets: files of annotations -> Detectron2's dicts -> COCO's format for the scores.

To add a format, write a function like :func:`register_coco`, and give it an entry in
:data:`FORMATS`. A config then names the format::

    DATASETS: {REGISTER: [[my_train, annotations, images, FORMAT]], TRAIN: [my_train]}

Nothing else has to know the format. A dataset without a COCO json is checked and scored by means of
:func:`write_coco_json`.
"""

import os
from collections.abc import Callable
from functools import partial

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import convert_to_coco_json

from .coco_files import load_dicts
from .errors import DatasetError

__all__ = ["DICT_FIELDS", "FORMATS", "write_coco_json"]


def register_coco(name: str, annotations: str, image_root: str) -> None:
    """Register a dataset in COCO's format with Detectron2. No file is read before it is used.

    It is what Detectron2's ``register_coco_instances`` does, except that the json is read as UTF-8
    in every locale.

    A format of another kind does three things:

    1. ``DatasetCatalog.register(name, load)``, where ``load()`` returns Detectron2's dicts with the
       fields that :data:`DICT_FIELDS` lists.
    2. ``MetadataCatalog.get(name).set(annotations=annotations, image_root=image_root,
       thing_classes=[...])``. The metadata ``json_file`` is for COCO's jsons alone.
    3. It raises a :class:`DatasetError` for a file that cannot be read, from ``load()``.

    Args:
        name: The name of the dataset, which is not registered yet.
        annotations: The path of the annotations, here a json.
        image_root: The path of the folder of images.
    """
    DatasetCatalog.register(name, partial(load_dicts, annotations, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=annotations, image_root=image_root, evaluator_type="coco"
    )


# The name of a format in DATASETS.REGISTER -> what registers a dataset of it.
FORMATS: dict[str, Callable[[str, str, str], None]] = {"coco": register_coco}

DICT_FIELDS = (
    "Each dict needs file_name, image_id, height and width, its annotations bbox, bbox_mode and "
    "category_id, and the metadata thing_classes. For an evaluator of your own, set evaluator_type "
    "in the metadata to its name."
)


def write_coco_json(name: str, path: str | os.PathLike) -> None:
    """Write the annotations of a registered dataset as a COCO json, like Detectron2's evaluator.

    Args:
        name: The name of a registered dataset.
        path: The path of the json. An existing file is overwritten.

    Raises:
        DatasetError: The dicts cannot be converted to COCO's format.
        OSError: The file cannot be written.
    """
    try:
        # a file that exists may have other annotations
        convert_to_coco_json(name, os.fspath(path), allow_cached=False)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 whatever such dicts make Detectron2 raise
        raise DatasetError(
            f"{name}: it cannot be converted to COCO's format, in which it is scored "
            f"({type(error).__name__}: {error}). {DICT_FIELDS}"
        ) from None
