"""Images in one folder per class: ImageNet's layout, train/CLASS/IMAGE and val/CLASS/IMAGE."""

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

from gn_det.data.checks.depth import depth_problem, window_warnings
from gn_det.data.checks.images import check_image, check_images_of
from gn_det.data.errors import DatasetError
from gn_det.data.read_image import read_image
from gn_det.utils import and_more

from .labelled_data import LabelledSplit, root_places
from .transforms import eval_transform, resize_to, train_transform

__all__ = ["check_image_folders", "find_image_folder", "image_folder"]

logger = logging.getLogger(__name__)

SAMPLE = 256  # images that are read at the start of a run, spread evenly over the classes


def find_image_folder(root: str) -> str:
    """Return the path of ``PRETRAIN.ROOT``, which has the folders train and val.

    Args:
        root: The value of the key.

    Raises:
        DatasetError: The folder does not exist. The message says where it was searched.
    """
    places = root_places(root)
    for place in places:
        if os.path.isdir(place):
            return place
    raise DatasetError(
        f"PRETRAIN.ROOT {root}: there is no folder {' and none '.join(places)}. It has to contain "
        "train/CLASS/IMAGE and val/CLASS/IMAGE. Set PRETRAIN.ROOT to another folder, or the "
        "environment variable DETECTRON2_DATASETS to the folder that it is in."
    )


def check_image_folders(cfg: CfgNode, *, training: bool = True) -> None:
    """Check that train and val have classes and images, and read some of the images.

    Args:
        cfg: A config with gn_det's keys.
        training: Whether to check train as well as val.

    Raises:
        DatasetError: There is a problem. The message is one line.
    """
    if resize_to(cfg) < cfg.PRETRAIN.CROP:
        raise DatasetError(
            f"PRETRAIN.RESIZE {cfg.PRETRAIN.RESIZE} is less than PRETRAIN.CROP "
            f"{cfg.PRETRAIN.CROP}: in evaluation the square would have black borders. RESIZE 0 "
            "fits every CROP."
        )
    root = find_image_folder(cfg.PRETRAIN.ROOT)
    val = _classes(os.path.join(root, "val"))
    train = _classes(os.path.join(root, "train")) if training else val
    if train != val:
        raise DatasetError(
            f"{root}: the classes of train and val differ: {_some(train - val)} in train alone, "
            f"{_some(val - train)} in val alone. They are numbered in the order of their names, so "
            "every number after the first difference would mean another class."
        )
    if len(val) != cfg.MODEL.CLASSIFIER.NUM_CLASSES:
        raise DatasetError(
            f"{root} has {_some(val)}, but MODEL.CLASSIFIER.NUM_CLASSES is "
            f"{cfg.MODEL.CLASSIFIER.NUM_CLASSES}. Set it to {len(val)}."
        )
    for split in ("train", "val") if training else ("val",):
        folder = os.path.join(root, split)
        _check_sample(folder, _images_by_class(folder, sorted(val)), cfg.INPUT.WINDOW)


def _classes(folder: str) -> set[str]:
    if not os.path.isdir(folder):
        raise DatasetError(f"There is no folder {folder}: PRETRAIN.ROOT needs train and val.")
    with os.scandir(folder) as entries:
        names = {entry.name: entry.is_dir() for entry in entries}
    classes = {name for name, is_dir in names.items() if is_dir}
    if not classes:
        raise DatasetError(
            f"{folder} has {len(names)} files and no folder: every class needs a folder of its own "
            "for its images. (ImageNet's validation images have no folders; its development kit "
            "has the class of each image.)"
        )
    return classes


def _images_by_class(folder: str, classes: list[str]) -> dict[str, list[str]]:
    images = {name: list(_images(os.path.join(folder, name))) for name in classes}
    empty = {name for name, paths in images.items() if not paths}
    if empty:
        raise DatasetError(
            f"{folder}: {_some(empty)} without an image. Images end in {', '.join(IMG_EXTENSIONS)}."
        )
    return images


def _images(folder: str) -> list[str]:
    return [
        os.path.join(path, name)
        for path, _, names in os.walk(folder, followlinks=True)
        for name in sorted(names)
        if has_file_allowed_extension(name, IMG_EXTENSIONS)
    ]


def _check_sample(folder: str, images: dict[str, list[str]], window: Sequence) -> None:
    paths = [path for of_class in images.values() for path in of_class]
    sample = paths[:: -(-len(paths) // SAMPLE)]
    workers = min(8, os.cpu_count() or 1)
    found = dict(check_images_of(((path, None) for path in sample), workers))
    bad = [(path, finding) for path, finding in found.items() if finding.size is None]
    if bad:
        path, finding = bad[0]
        raise DatasetError(
            f"{folder}: of {len(sample)} images that were tried, {len(bad)} cannot be read, such "
            f"as {path}: {finding.detail}."
        )
    deep = {path: finding.values for path, finding in found.items() if finding.values}
    for warning in window_warnings(deep, sample, window) if window else ():
        logger.warning(f"{folder}: {warning}")
    if not window and (problem := depth_problem(deep, len(sample))):
        raise DatasetError(f"{folder}: {' '.join(problem.split())}")


def _some(names: set[str]) -> str:
    """Return ``5 classes (a, b, c and 2 more)``."""
    shown = f" ({and_more(sorted(names), 3)})" if names else ""
    return f"{len(names)} class{'' if len(names) == 1 else 'es'}{shown}"


def image_folder(cfg: CfgNode, split: str) -> LabelledSplit:
    """Return a split of the images in ``PRETRAIN.ROOT``.

    Args:
        cfg: A config with gn_det's keys.
        split: The name of the split: "train" (augmented) or "val".

    Raises:
        DatasetError: The folder does not exist. The mapper raises one too, for an image that cannot
            be read.
    """
    make = train_transform if split == "train" else eval_transform
    found = ImageFolder(os.path.join(find_image_folder(cfg.PRETRAIN.ROOT), split))
    # DatasetFromList packs the records, so that worker processes share their memory
    records = DatasetFromList(
        [{"file_name": path, "label": label} for path, label in found.samples], copy=False
    )
    mode = "L" if cfg.INPUT.FORMAT == "L" else "RGB"
    mapper = partial(_read, transform=make(cfg), mode=mode, window=tuple(cfg.INPUT.WINDOW))
    return LabelledSplit(records, mapper, len(found.classes), tuple(found.classes))


def _read(
    record: dict[str, Any], transform: Callable, mode: str, window: Sequence[float | str]
) -> dict[str, Any]:
    path = record["file_name"]
    try:
        image = Image.fromarray(read_image(path, "RGB", window)).convert(mode)
    except DatasetError:
        raise
    except Exception as error:  # noqa: BLE001 Pillow's readers raise many kinds of errors
        finding = check_image(path, None)
        detail = finding.detail if finding and finding.detail else error
        raise DatasetError(
            f"{path} cannot be read as an image: {detail}. Get it again, or remove it, and "
            "continue with --resume."
        ) from error
    return {**record, "image": transform(image)}
