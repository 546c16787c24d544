"""Photo digits: real handwritten digits pasted on real photographs, with exact masks.

The digits are those of scikit-learn (1,797 scans of 8x8), the photographs those in the wheel of
scikit-image, so nothing is downloaded. On disk, the dataset is COCO json and PNG::

    ROOT/photo_digits_v1/{train,val}.json      ROOT/photo_digits_v1/{train,val}/000000.png ...

The same seed gives the same bytes. digit_scenes.py draws the scenes.
"""

import json
import logging
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from .digit_scenes import MIN_SIZE, Instance, crop_photograph, paste_digits

__all__ = [
    "CLASSES",
    "FOLDER",
    "SPLITS",
    "VERSION",
    "build_photo_digits",
    "check_arguments",
    "split_samples",
]

# Raise it with each change of the images or the json. The folder has it in its name, so the files
# of an older generator are never used for this one's.
VERSION = 1
FOLDER = f"photo_digits_v{VERSION}"
CLASSES = tuple("0123456789")  # category id = position + 1
SPLITS = ("train", "val")  # the position is part of the seed of the scenes

VAL_SHARE = 0.2  # of the samples of each class

# Photographs in scikit-image's wheel, with the licence that it states. None of them shows digits.
_CC0_TEXTURES = "CC0, from CC0Textures"
PHOTOGRAPHS = {
    "astronaut.png": "public domain, NASA Great Images database",
    "brick.png": _CC0_TEXTURES,
    "camera.png": "CC0, by Lav Varshney",
    "chelsea.png": "CC0, by Stefan van der Walt",
    "coffee.png": "CC0, by Rachel Michetti, courtesy of Pikolo Espresso Bar",
    "coins.png": "no known copyright restrictions, Brooklyn Museum Collection",
    "grass.png": "CC0, by linolafett",
    "gravel.png": _CC0_TEXTURES,
    "hubble_deep_field.jpg": "public domain, NASA",
    "ihc.png": "no known copyright restrictions, Center for Microscopy And Molecular Imaging",
    "retina.jpg": "CC0, by Mikael Häggström",
    "rocket.jpg": "public domain, SpaceX",
}

logger = logging.getLogger(__name__)


def check_arguments(num_train: int, num_val: int, size: int, seed: int) -> None:
    """Check the arguments of :func:`build_photo_digits`.

    Args:
        num_train: The number of scenes in the train split, at least 1.
        num_val: The number of scenes in the val split, at least 1.
        size: The height and width of a scene in pixels, at least 64.
        seed: The seed, at least 0.

    Raises:
        ValueError: One of them is not such a whole number.
    """
    for name, value, least in (
        ("num_train", num_train, 1),
        ("num_val", num_val, 1),
        ("size", size, MIN_SIZE),
        ("seed", seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(
                f"photo digits: {name} must be a whole number of at least {least}, got {value!r}."
            )


def build_photo_digits(
    root: str | os.PathLike,
    *,
    num_train: int = 1000,
    num_val: int = 100,
    size: int = 256,
    seed: int = 0,
) -> Path:
    """Build the dataset in the folder ``root``/photo_digits_v1, unless it is there already.

    The folder appears complete or not at all, even if the build is killed or several processes
    build it at the same time.

    Args:
        root: The folder of datasets. It is created where it does not exist.
        num_train: The number of scenes in the train split, at least 1.
        num_val: The number of scenes in the val split, at least 1.
        size: The height and width of a scene in pixels, at least 64.
        seed: The seed of the split of the samples and of every scene, at least 0.

    Returns:
        The path of the dataset's folder.

    Raises:
        ValueError: An argument is out of its range.
        FileExistsError: The folder exists, but is not this dataset or not complete. It is not
            changed.
        ImportError: scikit-learn or scikit-image is missing.
    """
    check_arguments(num_train, num_val, size, seed)
    counts = {"train": int(num_train), "val": int(num_val)}
    size, seed = int(size), int(seed)
    folder = Path(root).expanduser() / FOLDER
    if os.path.lexists(folder):
        _check_folder(folder, counts, size, seed)
        return folder

    digits, photographs = _load_sources()
    logger.info("Building photo digits in %s (once, %d scenes)", folder, sum(counts.values()))
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, because only a rename within a file system is atomic. Not by mkdtemp,
    # whose folder other users of a shared folder of datasets could not read.
    building = folder.parent / f".{FOLDER}.{uuid.uuid4().hex}.building"
    building.mkdir()
    try:
        _write(building, digits, photographs, counts, size, seed)
        try:
            os.rename(building, folder)
        except OSError:
            if not folder.is_dir():
                raise
            _check_folder(folder, counts, size, seed)  # another process was faster
    finally:
        shutil.rmtree(building, ignore_errors=True)  # it no longer exists after the rename
    return folder


def _info(counts: dict[str, int], size: int, seed: int) -> dict[str, Any]:
    return {
        "description": "photo digits: handwritten digits on photographs",
        "version": str(VERSION),
        "seed": seed,
        "size": size,
        "num_train": counts["train"],
        "num_val": counts["val"],
        "digits": "Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak, 1998), "
        "the UCI Machine Learning Repository's, as in sklearn.datasets.load_digits",
        "photographs": "scikit-image's, see licenses",
    }


def _check_folder(folder: Path, counts: dict[str, int], size: int, seed: int) -> None:
    """Raise FileExistsError where ``folder`` is not the complete dataset of these arguments."""
    advice = "Nothing was changed. Move it away or delete it, or choose another root folder."
    expected = _info(counts, size, seed)
    for split in SPLITS:
        try:
            coco = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
            info = coco["info"]
            names = {image["file_name"] for image in coco["images"]}
            missing = names - set(os.listdir(folder / split))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileExistsError(
                f"{folder} exists but is not a complete photo digits dataset ({split}: "
                f"{type(error).__name__}: {error}). {advice}"
            ) from error
        if info != expected:
            keys = [k for k in expected if not isinstance(info, dict) or info.get(k) != expected[k]]
            found = info if isinstance(info, dict) else {}
            difference = ", ".join(f"{k} {found.get(k)!r}, not {expected[k]!r}" for k in keys)
            raise FileExistsError(
                f"{folder} has a dataset of other arguments ({split}: {difference}). {advice}"
            )
        if missing or len(names) != counts[split]:
            raise FileExistsError(
                f"{folder} exists but is not a complete photo digits dataset: {split} lacks "
                f"{len(missing) or counts[split] - len(names)} of its {counts[split]} images. "
                f"{advice}"
            )


def _load_sources() -> tuple[Any, list[Image.Image]]:
    """Return scikit-learn's digits, and the photographs in RGB in the order of PHOTOGRAPHS."""
    try:
        from skimage import data_dir  # type: ignore[attr-defined]  # missing in its stub file
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            f"The photo digits dataset consists of scikit-learn's digits and scikit-image's "
            f"photographs; one of them could not be imported ({error}). "
            "Try: pip install scikit-learn scikit-image"
        ) from error
    photographs = []
    for name in PHOTOGRAPHS:
        path = Path(data_dir) / name
        if not path.is_file():
            raise ImportError(
                f"{path} is missing: this build of scikit-image does not include its photographs. "
                "Try: pip install --force-reinstall 'scikit-image>=0.25,<0.27'"
            )
        with Image.open(path) as image:
            photographs.append(image.convert("RGB"))
    return load_digits(), photographs


def split_samples(target: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Divide the samples between the splits, class by class. No sample is in both.

    Args:
        target: The class of each sample, (S,) in 0 to 9.
        seed: The seed of the division, at least 0.

    Returns:
        The indices of the samples by split, (N,) each.
    """
    rng = np.random.default_rng([seed, len(SPLITS)])
    train, val = [], []
    for label in range(len(CLASSES)):
        indices = rng.permutation(np.flatnonzero(target == label))
        num_val = round(VAL_SHARE * len(indices))
        val.append(indices[:num_val])
        train.append(indices[num_val:])
    return {"train": np.concatenate(train), "val": np.concatenate(val)}


def _write(
    folder: Path,
    digits: Any,
    photographs: list[Image.Image],
    counts: dict[str, int],
    size: int,
    seed: int,
) -> None:
    """Write both splits into the empty ``folder``."""
    samples = split_samples(digits.target, seed)
    scans = digits.images / 16  # ink is stored as 0 to 16
    with tqdm(total=sum(counts.values()), desc="photo digits", disable=None) as bar:
        for position, split in enumerate(SPLITS):
            (folder / split).mkdir()
            coco: dict[str, Any] = {
                "info": _info(counts, size, seed),
                "licenses": [
                    {"id": i, "name": text, "photograph": name, "url": ""}
                    for i, (name, text) in enumerate(PHOTOGRAPHS.items(), 1)
                ],
                "categories": [
                    {"id": i, "name": name, "supercategory": "digit"}
                    for i, name in enumerate(CLASSES, 1)
                ],
                "images": [],
                "annotations": [],
            }
            for index in range(counts[split]):
                # a generator for each scene, so that no scene depends on those before it
                rng = np.random.default_rng([seed, position, index])
                photo = int(rng.integers(len(photographs)))
                image = crop_photograph(photographs[photo], size, rng)
                image, instances = paste_digits(image, scans, samples[split], rng)
                name = f"{index:06d}.png"
                # level 1 takes a quarter of the default's time, and the files are 6% larger
                Image.fromarray(image).save(folder / split / name, compress_level=1)
                ids = {"id": index + 1, "file_name": name}
                coco["images"].append({**ids, "height": size, "width": size, "license": photo + 1})
                for instance in instances:
                    # ids start at 1: for COCOeval, annotation 0 means no match
                    ids = {"id": len(coco["annotations"]) + 1, "image_id": index + 1}
                    category = int(digits.target[instance.sample]) + 1
                    coco["annotations"].append(
                        {**ids, "category_id": category, **_annotate(instance)}
                    )
                bar.update()
            text = json.dumps(coco, ensure_ascii=False, separators=(",", ":"))
            (folder / f"{split}.json").write_text(text, encoding="utf-8", newline="\n")


def _annotate(instance: Instance) -> dict[str, Any]:
    """Return a digit's COCO annotation without the ids and the category."""
    rows, columns = np.flatnonzero(instance.mask.any(1)), np.flatnonzero(instance.mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    area = int(instance.mask.sum())
    rle = coco_mask.encode(np.asfortranarray(instance.mask, np.uint8))
    return {
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": area,
        "iscrowd": 0,
        "segmentation": {"size": list(instance.mask.shape), "counts": rle["counts"].decode()},
        "sample": instance.sample,  # index into scikit-learn's digits
        "visible": round(area / instance.whole_area, 4),
    }
