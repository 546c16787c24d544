"""Datasets that are registered as Detectron2's dicts alone: brought into COCO's format."""

import os
from tempfile import TemporaryDirectory

from detectron2.data.datasets import convert_to_coco_json

from gn_det.data.checks.coco_file import CheckedJson, check_json

from .errors import DatasetError

__all__ = ["check_dicts", "write_coco_json"]


def write_coco_json(name: str, path: str | os.PathLike) -> None:
    """Write the annotations of a registered dataset to ``path``, as Detectron2's evaluator does.

    Raises:
        DatasetError: they cannot be brought into COCO's format.
    """
    try:
        # a file that is there may be of other annotations
        convert_to_coco_json(name, os.fspath(path), allow_cached=False)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 whatever such dicts lead Detectron2 to
        raise DatasetError(
            f"{name}: it cannot be brought into COCO's format, in which it is scored "
            f"({type(error).__name__}: {error}). {_NEEDED}"
        ) from None


_NEEDED = (
    "Each dict needs file_name, image_id, height and width, its annotations bbox, bbox_mode and "
    "category_id, and the metadata thing_classes. For an evaluator of your own, set evaluator_type "
    "in the metadata to its name."
)


def check_dicts(name: str, dicts: list[dict]) -> CheckedJson:
    """Check a registered dataset as :func:`check_json` does a json, in the form that is scored.

    Args:
        name: of the dataset.
        dicts: what it is registered with.

    Raises:
        DatasetError: it cannot be brought into COCO's format.
    """
    without = [place for place, record in enumerate(dicts) if "image_id" not in record]
    if without:
        raise DatasetError(f"{name}: its dict {without[0]} has no image_id. {_NEEDED}")
    with TemporaryDirectory() as folder:
        path = os.path.join(folder, "dicts.json")
        write_coco_json(name, path)
        found = check_json(path)
    found.path = "its list of dicts"
    return found
