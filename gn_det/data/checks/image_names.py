"""Finds image files whose names a json writes otherwise: C:\\data\\img\\1.png, ./1.PNG, 1.jpeg."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable

__all__ = ["find_other_names"]


def find_other_names(missing: Iterable[str], root: str, taken: Iterable[str]) -> dict[str, str]:
    """Find files that missing names mean.

    A name means a file if it ends in the file's whole path below ``root``, when both kinds of
    slashes are one, and upper and lower case. Where no file has this extension, one with another
    image's extension will do. Nothing is found where two files fit, or where two names mean one
    file.

    Args:
        missing: The names for which there is no file.
        root: The folder below which the images are.
        taken: The names of the other images, whose files are there.

    Returns:
        The path below ``root`` by the missing name.
    """
    missing = list(missing)
    if not missing:
        return {}
    files, stems = _paths(root)
    found: dict[str, str] = {}
    for name in missing:
        parts = [p for p in name.replace("\\", "/").split("/") if p not in ("", ".")]
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            fits = files[tail.casefold()]
            if tail in fits:
                fits = [tail]
            fits = fits or stems[os.path.splitext(tail.casefold())[0]]
            if len(fits) == 1:
                found[name] = fits[0]
            if fits:
                break
    uses = Counter(found.values())
    uses.update(os.path.normpath(name).replace(os.sep, "/") for name in taken)
    return {name: path for name, path in found.items() if uses[path] == 1}


_EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


def _paths(root: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the paths below a folder by their lower-case path, and by that without extension."""
    files: dict[str, list[str]] = defaultdict(list)
    stems: dict[str, list[str]] = defaultdict(list)
    for folder, _, names in os.walk(root):
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in names:
            path = name if below == "." else f"{below}/{name}"
            stem, extension = os.path.splitext(path.casefold())
            files[path.casefold()].append(path)
            if extension in _EXTENSIONS:
                stems[stem].append(path)
    return files, stems
