"""Registers photo digits with Detectron2: photo_digits_train and photo_digits_val.

Nothing is built, and no folder is looked at, before a dataset is asked for.
"""

import inspect
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.datasets import load_coco_json

from .photo_digits import CLASSES, FOLDER, SPLITS, build_photo_digits, check_arguments

__all__ = ["ensure_dataset", "register_photo_digits"]


@dataclass(frozen=True)
class _Registered:
    """What a name stands for."""

    name: str
    split: str
    root: str | None  # None: $DETECTRON2_DATASETS, read whenever it is needed
    build_kwargs: dict[str, Any] = field(default_factory=dict)

    def folder(self) -> Path:
        root = self.root
        if root is None:
            root = os.getenv("DETECTRON2_DATASETS", "datasets")  # as Detectron2's own datasets
        return Path(root).expanduser() / FOLDER

    def build(self) -> None:
        build_photo_digits(self.folder().parent, **self.build_kwargs)

    def load(self) -> list[dict]:
        self.build()
        metadata = MetadataCatalog.get(self.name)
        return load_coco_json(metadata.json_file, metadata.image_root, self.name)


_REGISTERED: dict[str, _Registered] = {}


class PhotoDigitsMetadata(Metadata):
    """Metadata whose paths follow $DETECTRON2_DATASETS also where it is set after the import."""

    @property
    def json_file(self) -> str:
        """The split's COCO json. It is there once the dataset was loaded, or made sure of."""
        return f"{self.image_root}.json"

    @property
    def image_root(self) -> str:
        """The folder of the split's images."""
        registered = _REGISTERED[self.name]
        return str(registered.folder() / registered.split)

    def as_dict(self) -> dict[str, Any]:
        """Return all the metadata, the two paths of now included."""
        return {
            **super().as_dict(),
            "json_file": self.json_file,
            "image_root": self.image_root,
        }


def register_photo_digits(
    prefix: str = "photo_digits", root: str | os.PathLike | None = None, **build_kwargs: int
) -> tuple[str, str]:
    """Register the datasets ``prefix``_train and ``prefix``_val, and return their names.

    The first use builds them. Registering the same again changes nothing.

    Args:
        prefix: in front of both names.
        root: the folder of datasets; None stands for $DETECTRON2_DATASETS, or else ./datasets.
            One root holds one variant.
        build_kwargs: num_train, num_val, size and seed of :func:`build_photo_digits`.

    Raises:
        TypeError: an unknown keyword.
        ValueError: a value that cannot be built, or the name is another dataset's.
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
                f"A dataset named {dataset.name} is registered already, of another kind or with "
                "other arguments. Choose another prefix."
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
    """Build the dataset ``name`` where it is one of ours and missing; else do nothing.

    For code that reads the metadata's json_file before any loader ran, as COCOEvaluator does.

    Raises:
        FileExistsError, ImportError: see :func:`build_photo_digits`.
    """
    if name in _REGISTERED:
        _REGISTERED[name].build()


register_photo_digits()
