"""Are the image files there, can they be read whole, and have they the size of the json?"""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from PIL import Image, UnidentifiedImageError

from gn_det.data.open_file import instead_of, open_regular

from .coco_file import ImageRecord
from .report import Report

__all__ = ["ImageFinding", "check_files", "check_image", "check_images_of", "missing_files"]

_BATCH = 512  # files that wait for a thread at one time
_ORIENTATION = 274  # EXIF's tag
_SWAPS_SIDES = (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageFinding:
    """What is to be said of an image file.

    Attributes:
        kind: a key of ``KINDS``: "file-...", or "image-size" where the file is well, and has the
            size that the json lacks.
        detail: for a person.
        size: (width, height) as Detectron2 reads it; None where it cannot.
    """

    kind: str
    detail: str = ""
    size: tuple[int, int] | None = None


def missing_files(paths: Iterable[str]) -> Iterator[str]:
    """Yield the paths where there is nothing, by one listing a folder."""
    listings: dict[str, set[str]] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listings:
            try:
                listings[folder] = set(os.listdir(folder or "."))
            except (OSError, ValueError):
                listings[folder] = set()
        if name not in listings[folder]:
            yield path


def check_image(path: str, size: tuple[int, int] | None) -> ImageFinding | None:
    """Read a whole image as Detectron2's ``read_image`` will, the EXIF rotation included.

    Args:
        path: of the file.
        size: (width, height) that it is to have; None where that is not known.

    Returns:
        What is to be said of it; None where it is as it should be.
    """
    try:
        with open_regular(path) as file:
            return _check(file, size)
    except FileNotFoundError:
        return ImageFinding("file-missing")
    except OSError as error:
        return ImageFinding("file-unreadable", error.strerror or str(error))


def _check(file: Any, size: tuple[int, int] | None) -> ImageFinding | None:
    head = file.read(64)
    file.seek(0)
    if not head:
        return ImageFinding("file-unreadable", "it is empty")
    # Pillow's readers raise whatever a damaged file leads them to: OSError, SyntaxError,
    # ValueError, struct.error, DecompressionBombError, MemoryError, ...
    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        detail = instead_of(head) or f"no format that Pillow knows, it starts with {head[:8]!r}"
        return ImageFinding("file-unreadable", detail)
    except Exception as error:  # noqa: BLE001
        return ImageFinding("file-unreadable", f"{type(error).__name__}: {error}")
    stored = image.size
    try:
        if image.format == "PNG":
            # getexif() would load it, and Detectron2 overlooks the error, and what is missing
            image.load()
        orientation = _orientation(image)  # before a TIFF is loaded, which Pillow turns itself
        image.load()
        if image.mode != "RGB":
            image.convert("RGB")
    except Exception as error:  # noqa: BLE001
        return ImageFinding("file-truncated", f"{error or type(error).__name__}")
    real = stored[::-1] if orientation in _SWAPS_SIDES else stored
    if size is None:
        return ImageFinding("image-size", size=real)
    if real == size:
        turned = isinstance(orientation, int) and 2 <= orientation <= 8
        return ImageFinding("file-turned", size=real) if turned else None
    if stored == size:
        detail = f"{_sides(real)} by EXIF orientation {orientation}, the json says {_sides(size)}"
        return ImageFinding("file-rotated", detail, real)
    return ImageFinding("file-size", f"it is {_sides(real)}, the json says {_sides(size)}", real)


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001 Detectron2 takes unreadable EXIF for none, too
        return None


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def check_files(
    images: Iterable[ImageRecord],
    root: str,
    report: Report,
    *,
    opened: bool = True,
    workers: int = 4,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, ImageFinding]:
    """Report on the files of a dataset.

    Args:
        images: what the json says; those without a file name are passed over.
        root: the folder that their names are below.
        report: is added to.
        opened: read them all; else only look whether they are there.
        workers: number of threads that read.
        progress: called with 1 after each image that was read.

    Returns:
        What was found, by ``file_name``.
    """
    by_path = {os.path.join(root, image.file_name): image for image in images if image.file_name}
    found = {path: ImageFinding("file-missing") for path in missing_files(by_path)}
    if opened:
        present = ((path, image.size) for path, image in by_path.items() if path not in found)
        found.update(check_images_of(present, workers, progress))
    for path, finding in found.items():
        if finding.kind != "image-size":  # which the json's own check has reported
            report.add(finding.kind, by_path[path].file_name, finding.detail or None)
    return {by_path[path].file_name: finding for path, finding in found.items()}


def check_images_of(
    files: Iterable[tuple[str, tuple[int, int] | None]],
    workers: int,
    progress: Callable[[int], Any] | None = None,
) -> Iterator[tuple[str, ImageFinding]]:
    """Read images in several threads; Pillow decodes without holding Python's lock.

    Args:
        files: (path, size) as :func:`check_image` takes them.
        workers: number of threads, each of which holds one decoded image.
        progress: called with 1 after each image.

    Yields:
        (path, finding) of those with something to say, in the order of ``files``.
    """
    files = iter(files)
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # Pillow's, of large images and odd metadata
        while batch := list(islice(files, _BATCH)):
            for (path, _), finding in zip(batch, pool.map(lambda item: check_image(*item), batch)):
                if progress is not None:
                    progress(1)
                if finding is not None:
                    yield path, finding
