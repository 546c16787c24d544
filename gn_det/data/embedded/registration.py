"""Registers photo digits with Detectron2 as photo_digits_train and photo_digits_val.

Nothing is built, and no folder is read, before a dataset is used.
"""

import inspect
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from gn_det.data.coco_files import load_dicts

from .photo_digits import CLASSES, FOLDER, SPLITS, build_photo_digits, check_arguments

__all__ = ["ensure_dataset", "register_photo_digits"]


@dataclass(frozen=True)
class _Registered:
    """A registered split.

    Attributes:
        name: The name in Detectron2's catalogs.
        split: One of ``SPLITS``.
        root: The folder of datasets; None means $DETECTRON2_DATASETS at the time of each use.
        build_kwargs: The keyword arguments of :func:`build_photo_digits`.
    """

    name: str
    split: str
    root: str | None
    build_kwargs: dict[str, Any] = field(default_factory=dict)

    def folder(self) -> Path:
        root = self.root
        if root is None:
            root = os.getenv("DETECTRON2_DATASETS", "datasets")  # like Detectron2's own datasets
        return Path(root).expanduser() / FOLDER

    def build(self) -> None:
        build_photo_digits(self.folder().parent, **self.build_kwargs)

    def load(self) -> list[dict]:
        self.build()
        metadata = MetadataCatalog.get(self.name)
        return load_dicts(metadata.json_file, metadata.image_root, self.name)


_REGISTERED: dict[str, _Registered] = {}


class PhotoDigitsMetadata(Metadata):
    """Metadata whose paths use $DETECTRON2_DATASETS even if it is set after the import."""

    @property
    def json_file(self) -> str:
        """The path of the split's COCO json. It exists after the first use of the dataset."""
        return f"{self.image_root}.json"

    @property
    def image_root(self) -> str:
        """The path of the folder of the split's images."""
        registered = _REGISTERED[self.name]
        return str(registered.folder() / registered.split)

    def as_dict(self) -> dict[str, Any]:
        """Return all the metadata, with the current two paths."""
        return {
            **super().as_dict(),
            "json_file": self.json_file,
            "image_root": self.image_root,
        }


def register_photo_digits(
    prefix: str = "photo_digits", root: str | os.PathLike | None = None, **build_kwargs: int
) -> tuple[str, str]:
    """Register the datasets ``prefix``_train and ``prefix``_val.

    The first use builds them. A second registration with the same arguments changes nothing.

    Args:
        prefix: The first part of both names.
        root: The folder of datasets, which holds one variant of photo digits. None means
            $DETECTRON2_DATASETS or, where that is not set, ./datasets.
        build_kwargs: The num_train, num_val, size and seed of :func:`build_photo_digits`.

    Returns:
        The two names.

    Raises:
        TypeError: A keyword is unknown.
        ValueError: A value is out of its range, or another dataset has the name.
    """
    arguments = {
        name: build_kwargs.pop(name, parameter.default)
        for name, parameter in inspect.signature(build_photo_digits).parameters.items()
        if name != "root"
    }
    if build_kwargs:
        raise TypeError(
            f"register_photo_digits knows no {', '.join(build_kwargs)}; "
            f"it takes {', '.join(arguments)}."
        )
    check_arguments(**arguments)
    root = None if root is None else os.fspath(root)
    datasets = [_Registered(f"{prefix}_{split}", split, root, arguments) for split in SPLITS]
    for dataset in datasets:
        if dataset.name in DatasetCatalog and _REGISTERED.get(dataset.name) != dataset:
            raise ValueError(
                f"A dataset named {dataset.name} is registered already, of another kind or "
                "with other arguments. Choose another prefix."
            )
    for dataset in datasets:
        if dataset.name not in DatasetCatalog:
            _register(dataset)
    return datasets[0].name, datasets[1].name


def _register(dataset: _Registered) -> None:
    _REGISTERED[dataset.name] = dataset
    DatasetCatalog.register(dataset.name, dataset.load)
    MetadataCatalog[dataset.name] = PhotoDigitsMetadata(
        name=dataset.name,
        thing_classes=list(CLASSES),
        thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(CLASSES))},
        evaluator_type="coco",
    )


def ensure_dataset(name: str) -> None:
    """Build a missing embedded dataset. Another dataset is not touched.

    It is for code that reads the metadata's json_file before any loader ran, like COCOEvaluator.

    Args:
        name: The name of a dataset.

    Raises:
        FileExistsError, ImportError: The dataset cannot be built, see :func:`build_photo_digits`.
    """
    if name in _REGISTERED:
        _REGISTERED[name].build()


register_photo_digits()
