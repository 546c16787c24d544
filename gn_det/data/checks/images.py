"""Checks of image files: they exist, can be read in full, and have the json's size and 8 bits."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from gn_det.data.errors import DatasetError
from gn_det.data.read_image import orientation_of, pixel_type
from gn_det.utils import identify_content, open_regular

from .coco_json import ImageRecord
from .depth import PixelRange, pixel_range, report_depth
from .image_names import find_other_names
from .report import Report
from .resized_size import vanishing_size

__all__ = ["ImageFinding", "check_files", "check_image", "check_images_of", "missing_files"]

_BATCH = 512  # files that wait for a thread at one time
_SWAPS_SIDES = (5, 6, 7, 8)  # the orientations by 90 degrees


@dataclass(frozen=True)
class ImageFinding:
    """A problem of an image file, or a note about it.

    Attributes:
        kind: A key of ``KINDS``: "file-...", or "image-size" where the file is good and has the
            size that the json lacks. Of several problems, the one that is worst.
        detail: More about the problem, for a person.
        size: The size (width, height) in pixels as a training reads it; None where it cannot.
        values: The values of the pixels, where 8 bits a channel cannot hold them; else None.
        pages: The number of pages of a TIFF, of which a training reads the first.
        name: For "file-name", the path of the file below the folder of images; else "".
    """

    kind: str
    detail: str = ""
    size: tuple[int, int] | None = None
    values: PixelRange | None = None
    pages: int = 1
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
    """Read a whole image like :func:`gn_det.data.read_image`, with the EXIF rotation.

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
    head = file.read(132)
    file.seek(0)
    if not head:
        return ImageFinding("file-unreadable", "it is empty")
    # For damaged files, Pillow's readers raise many kinds of errors: OSError, SyntaxError,
    # ValueError, struct.error, DecompressionBombError, MemoryError, ...
    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        detail = identify_content(head) or (
            f"no format that Pillow knows, it starts with {head[:8]!r}: write it as a PNG or TIFF"
        )
        if head[:4] in (b"II*\0", b"MM\0*"):
            detail = (
                "a TIFF of a kind that Pillow does not read, such as 16 or 64-bit floats, floats "
                "in colour, or 2 channels. Write it as 16 bits, or grey as 32-bit floats"
            )
        return ImageFinding("file-unreadable", detail)
    except Exception as error:  # noqa: BLE001
        return ImageFinding("file-unreadable", f"{type(error).__name__}: {error}")
    try:
        mode = pixel_type(image)
        if image.format == "PNG":
            # getexif() would load it, and Detectron2 ignores the error and the missing rows
            image.load()
        orientation = orientation_of(image)
        pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
        values = pixel_range(mode, image, file) if mode else None
        image.load()
        if not mode and image.mode != "RGB":
            image.convert("RGB")
    except DatasetError as error:
        return ImageFinding("file-unreadable", str(error))
    except Exception as error:  # noqa: BLE001
        return ImageFinding("file-truncated", f"{error or type(error).__name__}")
    # load() has turned a TIFF, and has taken its orientation away
    real = image.size[::-1] if orientation_of(image) in _SWAPS_SIDES else image.size
    stored = real[::-1] if orientation in _SWAPS_SIDES else real
    kind, detail = "", ""
    if size is not None and real != size:
        if stored == size:
            kind, detail = "file-rotated", f"{_sides(real)} by EXIF orientation {orientation}"
        else:
            kind, detail = "file-size", f"it is {_sides(real)}"
        detail = f"{detail}, the json says {_sides(size)}"
    elif values is not None:
        kind, detail = "file-depth", str(values)
    elif pages > 1:
        kind, detail = "file-pages", f"{pages} pages"
    elif size is None:
        kind = "image-size"
    elif isinstance(orientation, int) and 2 <= orientation <= 8:
        kind = "file-turned"
    return ImageFinding(kind, detail, real, values=values, pages=pages) if kind else None


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def check_files(
    images: Iterable[ImageRecord],
    root: str,
    report: Report,
    *,
    opened: bool = True,
    window: bool = False,
    workers: int = 4,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, ImageFinding]:
    """Check the image files of a dataset.

    Args:
        images: The images of the json. Those without a file name are skipped.
        root: The folder below which the files are.
        report: The report that gets the problems.
        opened: Whether to read the images. If not, only their existence is checked.
        window: Whether the config has an ``INPUT.WINDOW``, for images of more than 8 bits.
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
        name = by_path[path].file_name
        # the check of the json has reported the missing size
        if finding.kind not in ("image-size", "file-depth", "file-pages"):
            report.add(finding.kind, name, finding.detail or None)
        if finding.pages > 1:
            report.add("file-pages", name, f"{finding.pages} pages")
    if not window:
        deep = {by_path[path].file_name: f.values for path, f in found.items() if f.values}
        report_depth(deep, report)
    for path, image in by_path.items():
        size = (found[path].size if path in found else None) or image.size
        if size and (resized := vanishing_size(size)):
            report.add("image-narrow", image.file_name, f"{_sides(size)} becomes {_sides(resized)}")
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
