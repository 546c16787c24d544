"""The names of classes in the order of a model's outputs, and where two lists of them differ."""

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

__all__ = ["class_names", "class_names_of_file", "differing_classes"]

# what Detectron2's metadata call the names of objects, of stuff, and of keypoints
ENTRIES = ("thing_classes", "stuff_classes", "keypoint_names")


def class_names(dataset: str, *, load: bool = True) -> dict[str, list[str]]:
    """Return the names that the metadata of a dataset have.

    Args:
        dataset: The name of a dataset.
        load: Whether to load the dataset where its names are not known, as those of
            ``register_coco_instances`` are not until then.

    Returns:
        The names by the entry of the metadata, such as ``{"thing_classes": ["ship", "buoy"]}``. It
        is empty where the names are not known, or the dataset is not registered.
    """
    if dataset not in DatasetCatalog.list():
        return {}
    metadata = MetadataCatalog.get(dataset)
    if load and all(metadata.get(entry) is None for entry in ENTRIES):
        DatasetCatalog.get(dataset)
    return {entry: list(names) for entry in ENTRIES if (names := metadata.get(entry))}


def class_names_of_file(entries: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names of classes in a checkpoint by their entry; of pre-training "classes".

    Args:
        entries: The entries of the file.
    """
    found = {key: entries[key] for key in (*ENTRIES, "classes") if key in entries}
    return {
        key: list(names)
        for key, names in found.items()
        if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    }


def differing_classes(
    first: Sequence[str], second: Sequence[str], in_first: str, in_second: str
) -> str:
    """Say where two lists of class names differ; "" where they are the same.

    Args:
        first: The names of the classes 0, 1, ...
        second: The names that are compared with them.
        in_first: Where the first ones stand, such as "in the weights".
        in_second: Where the second ones stand.
    """
    # one letter may be written in two ways
    first, second = ([unicodedata.normalize("NFC", n) for n in names] for names in (first, second))
    pairs = enumerate(zip_longest(first, second))
    found = [(place, *names) for place, names in pairs if names[0] != names[1]]
    if not found:
        return ""
    place, a, b = found[0]
    text = f"class {place} is {_quoted(a)} {in_first} and {_quoted(b)} {in_second}"
    for place, a, b in found[1:3]:
        text += f", class {place} {_quoted(a)} and {_quoted(b)}"
    text += f" and {len(found) - 3} more" if len(found) > 3 else ""
    if sorted(first) == sorted(second):
        return f"{text} (the same names in another order)"
    if len(first) != len(second):
        return f"{text} ({len(first)} classes {in_first}, {len(second)} {in_second})"
    return text


def _quoted(name: str | None) -> str:
    return "missing" if name is None else repr(name)
