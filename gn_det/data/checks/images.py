"""Checks of image files: they exist, the whole file can be read, and the size is the json's."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from gn_det.utils import identify_content, open_regular

from .coco_json import ImageRecord
from .image_names import find_other_names
from .report import Report

__all__ = ["ImageFinding", "check_files", "check_image", "check_images_of", "missing_files"]

_BATCH = 512  # files that wait for a thread at one time
_ORIENTATION = 274  # the EXIF tag
_SWAPS_SIDES = (5, 6, 7, 8)  # the orientations by 90 degrees


@dataclass(frozen=True)
class ImageFinding:
    """A problem of an image file, or a note about it.

    Attributes:
        kind: A key of ``KINDS``: "file-...", or "image-size" where the file is good and has the
            size that the json lacks.
        detail: More about the problem, for a person.
        size: The size (width, height) in pixels as Detectron2 reads it; None where it cannot.
        name: For "file-name", the path of the file below the folder of images; else "".
    """

    kind: str
    detail: str = ""
    size: tuple[int, int] | None = None
    name: str = ""


def missing_files(paths: Iterable[str]) -> Iterator[str]:
    """Yield the paths that do not exist. Each folder is listed once.

    Args:
        paths: The paths of files.
    """
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
    """Read a whole image like Detectron2's ``read_image``, with the EXIF rotation.

    Args:
        path: The path of the file.
        size: The size (width, height) in pixels that the image should have; None where unknown.

    Returns:
        The problem or note; None where there is none.
    """
    try:
        with open_regular(path) as file:
            return _check(file, size)
    except FileNotFoundError:
        return ImageFinding("file-missing")
    except OSError as error:
        return ImageFinding("file-unreadable", error.strerror or str(error))


def _check(file: BinaryIO, size: tuple[int, int] | None) -> ImageFinding | None:
    head = file.read(64)
    file.seek(0)
    if not head:
        return ImageFinding("file-unreadable", "it is empty")
    # For damaged files, Pillow's readers raise many kinds of errors: OSError, SyntaxError,
    # ValueError, struct.error, DecompressionBombError, MemoryError, ...
    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        detail = identify_content(head) or (
            f"no format that Pillow knows, it starts with {head[:8]!r}"
        )
        return ImageFinding("file-unreadable", detail)
    except Exception as error:  # noqa: BLE001
        return ImageFinding("file-unreadable", f"{type(error).__name__}: {error}")
    stored = image.size
    try:
        if image.format == "PNG":
            # getexif() would load it, and Detectron2 ignores the error and the missing rows
            image.load()
        orientation = _orientation(image)  # before load(): Pillow itself rotates a TIFF there
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
    except Exception:  # noqa: BLE001 like Detectron2, which ignores unreadable EXIF data
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
    """Check the image files of a dataset.

    Args:
        images: The images of the json. Those without a file name are skipped.
        root: The folder below which the files are.
        report: The report that gets the problems.
        opened: Whether to read the images. If not, only their existence is checked.
        workers: The number of threads that read.
        progress: The function that gets 1 after each image that was read.

    Returns:
        The problems and notes by ``file_name``.
    """
    by_path = {os.path.join(root, image.file_name): image for image in images if image.file_name}
    found = {path: ImageFinding("file-missing") for path in missing_files(by_path)}
    names = [by_path[path].file_name for path in found]
    taken = (image.file_name for path, image in by_path.items() if path not in found)
    for name, other in find_other_names(names, root, taken).items():
        found[os.path.join(root, name)] = ImageFinding("file-name", f"it is {other}", name=other)
    if opened:
        present = ((path, image.size) for path, image in by_path.items() if path not in found)
        found.update(check_images_of(present, workers, progress))
    for path, finding in found.items():
        if finding.kind != "image-size":  # which the check of the json has reported
            report.add(finding.kind, by_path[path].file_name, finding.detail or None)
    return {by_path[path].file_name: finding for path, finding in found.items()}


def check_images_of(
    files: Iterable[tuple[str, tuple[int, int] | None]],
    workers: int,
    progress: Callable[[int], Any] | None = None,
) -> Iterator[tuple[str, ImageFinding]]:
    """Check images in several threads. Pillow releases Python's lock while it decodes.

    Args:
        files: The pairs (path, size), see :func:`check_image`.
        workers: The number of threads. Each holds one decoded image.
        progress: The function that gets 1 after each image.

    Yields:
        The pairs (path, problem or note) in the order of ``files``, without those that are good.
    """
    files = iter(files)
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # Pillow's warnings of large images and odd metadata
        while batch := list(islice(files, _BATCH)):
            for (path, _), finding in zip(batch, pool.map(lambda item: check_image(*item), batch)):
                if progress is not None:
                    progress(1)
                if finding is not None:
                    yield path, finding
