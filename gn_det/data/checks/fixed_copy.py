"""Writes a repaired copy of a COCO json, and a list of what was changed. The input is only read."""

import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TextIO

from gn_det.data.errors import DatasetError

from .coco_file import image_problems
from .coco_json import CocoJson, Record
from .fixes import fix_annotation
from .ids import id_problem, whole
from .images import ImageFinding
from .report import shown

__all__ = ["changes_file", "refuse_existing", "repair"]

_REMOVED = object()


def changes_file(out: str | os.PathLike) -> str:
    """Return the name of the list of changes."""
    return f"{os.fspath(out)}.changes.txt"


def refuse_existing(out: str | os.PathLike) -> None:
    """Raise a DatasetError where the copy or its list would overwrite a file, or has no folder."""
    for path in (os.fspath(out), changes_file(out)):
        if os.path.lexists(path):
            raise DatasetError(f"{path} exists already. Give another name for the repaired copy.")
    folder = os.path.dirname(os.fspath(out)) or "."
    if not os.path.isdir(folder):
        raise DatasetError(f"{out} cannot be written: there is no folder {folder}.")


def repair(
    path: str | os.PathLike,
    out: str | os.PathLike,
    files: Mapping[str, ImageFinding] | None = None,
    progress: Callable[[int], Any] | None = None,
) -> int:
    """Write a repaired copy to ``out``, and what was changed to ``out``.changes.txt.

    Args:
        path: the COCO json; it is read three times, a record at a time.
        out: the copy. Neither it nor the list may exist.
        files: what was found of image files, by their ``file_name``.
        progress: called with the number of bytes after each read.

    Returns:
        The number of changes.

    Raises:
        DatasetError: the input is no JSON, or the output exists or cannot be written; nothing is
            left behind then.
    """
    refuse_existing(out)
    try:
        with (
            open(changes_file(out), "x", encoding="utf-8", errors="backslashreplace") as changes,
            open(out, "x", encoding="utf-8") as file,
        ):
            return _Repair(CocoJson(path, progress), files or {}, changes).write(file)
    except BaseException as error:
        for made in (out, changes_file(out)):
            with suppress(OSError):
                os.remove(made)
        if isinstance(error, OSError):
            raise DatasetError(f"{out} cannot be written: {error.strerror or error}.") from None
        if isinstance(error, RecursionError):
            raise DatasetError(f"{path}: values are nested too deep to be repaired.") from None
        raise


class _Repair:
    """One run: first what becomes of images and classes, then the copy."""

    def __init__(self, source: CocoJson, files: Mapping[str, ImageFinding], changes: TextIO):
        self.json, self.files, self.changes = source, files, changes
        self.count = 0
        self.images: dict[int, dict] = {}  # by place in the list
        self.categories: dict[int, dict] = {}
        self.annotation_ids: set[Any] = set()

    def change(self, where: str, kind: str, what: str) -> None:
        self.count += 1
        self.changes.write(f"{shown(where, 160)}: {kind}: {shown(what, 160)}\n")

    def write(self, file: TextIO) -> int:
        largest = 0
        for record in self.json:
            if not isinstance(record.value, dict) or record.index is None:
                continue
            if record.section == "images":
                self.image(record.value, record.index)
            elif record.section == "categories":
                self.category(record.value, record.index)
            elif record.section == "annotations":
                number = whole(record.value.get("id"))
                largest = max(largest, number) if type(number) is int else largest
        self.next_id = largest + 1
        sizes = self.without_twins("image", self.images, "file_name")
        self.sizes = {i: (m["width"], m["height"]) for i, m in sizes.items()}
        self.class_ids = set(self.without_twins("class", self.categories, "name"))
        if self.json.encoding != "utf-8":
            self.change("the file", "encoding", f"written as UTF-8, it was {self.json.encoding}")
        self.copy(file)
        return self.count

    # -- images and classes --------------------------------------------------------------------

    def image(self, image: dict, index: int) -> None:
        name = image.get("file_name")
        where = f"images[{index}] {name if isinstance(name, str) else ''}".rstrip()
        self.plain_id(image, "id", where)
        finding = self.files.get(name) if isinstance(name, str) else None
        if finding and finding.kind in ("file-size", "image-size"):
            image["width"], image["height"] = finding.size
            self.change(where, finding.kind, f"the size is now the file's, {finding.size}")
        for kind, _ in image_problems(image):
            if kind == "image-number":
                image["width"], image["height"] = int(image["width"]), int(image["height"])
                self.change(where, kind, "written as whole numbers")
            elif kind != "id-text":
                return self.change(where, kind, "removed, with its annotations")
        if finding and finding.kind not in ("file-size", "image-size", "file-turned"):
            return self.change(where, finding.kind, "removed, with its annotations")
        self.images[index] = image
        return None

    def category(self, category: dict, index: int) -> None:
        where = f"categories[{index}]"
        self.plain_id(category, "id", where)
        if id_problem(category.get("id")) == "missing":
            return self.change(where, "class-id", "removed")
        name = category.get("name")
        if not isinstance(name, str) or not name.strip():
            category["name"] = f"class_{category['id']}"
            self.change(where, "class-name", f"named {category['name']}")
        self.categories[index] = category
        return None

    def plain_id(self, record: dict, key: str, where: str) -> None:
        old = record.get(key)
        new = whole(old)
        if type(new) is not type(old):
            record[key] = new
            self.change(where, "id-text", f"{key} {old!r} is now {new}")

    def without_twins(self, what: str, records: dict[int, dict], key: str) -> dict[Any, dict]:
        """Take those with one id out of ``records``; return the rest by id.

        Where all of them have the same ``key``, the first one stays. Where images differ, nobody
        knows whose the annotations are; classes that differ are left to a person.
        """
        by_id: dict[Any, list[int]] = {}
        for index, record in records.items():
            by_id.setdefault(record["id"], []).append(index)
        for number, places in by_id.items():
            if len(places) == 1:
                continue
            same = len({records[place][key] for place in places}) == 1
            if not same and what == "class":
                continue
            for place in places[1 if same else 0 :]:
                twin = records.pop(place)
                self.change(f"{what} {number} {twin[key]}", f"{what}-twice", "removed")
        return {record["id"]: record for record in records.values()}

    # -- the copy ------------------------------------------------------------------------------

    def copy(self, file: TextIO) -> None:
        section, first = None, True  # of the list that is being written, and of its records
        file.write("{")
        opened = False
        for record in self.json:
            for kind, detail in record.remarks:
                self.change(_place(record), kind, detail)
            if record.section != section:
                opened = self.start(file, record, section, opened)
                section, first = (record.section if record.index is not None else None), True
            kept = self.kept(record)
            if kept is _REMOVED:
                continue
            text = json.dumps(_finite(kept), allow_nan=False)
            file.write(text if record.index is None or first else f",\n{text}")
            first = False
        if section is not None:
            file.write("]")
        for name, count in self.json.counts.items():
            if not count:  # an empty list has no record
                file.write(f"{',' if opened else ''}\n{json.dumps(name)}: []")
                opened = True
        file.write("}\n")

    def start(self, file: TextIO, record: Record, section: str | None, opened: bool) -> bool:
        file.write("]" if section is not None else "")
        file.write(f"{',' if opened else ''}\n{json.dumps(record.section)}: ")
        file.write("[" if record.index is not None else "")
        return True

    def kept(self, record: Record) -> Any:
        """Return what is written of a record, or _REMOVED."""
        if record.index is None or record.section not in ("images", "categories", "annotations"):
            return record.value
        if not isinstance(record.value, dict):
            self.change(_place(record), "record", f"removed: {shown(record.value)}")
            return _REMOVED
        if record.section == "images":
            return self.images.get(record.index, _REMOVED)
        if record.section == "categories":
            return self.categories.get(record.index, _REMOVED)
        mended = self.annotation(record.value, _place(record))
        return _REMOVED if mended is None else mended

    def annotation(self, annotation: dict, where: str) -> dict | None:
        for key in ("id", "image_id", "category_id"):
            self.plain_id(annotation, key, where)
        image_id, class_id = annotation.get("image_id"), annotation.get("category_id")
        if "missing" in (id_problem(image_id), id_problem(class_id)):
            return self.change(where, "reference", "removed")
        if image_id not in self.sizes:
            return self.change(where, "image-unknown", f"removed: image {image_id} is not there")
        if class_id not in self.class_ids:
            return self.change(where, "class-unknown", f"removed: class {class_id} is not there")
        mended, kinds = fix_annotation(annotation, self.sizes[image_id])
        for kind in kinds:
            done = "mended" if mended is not None or kind != kinds[-1] else "removed"
            self.change(where, kind, done)
        if mended is not None:
            self.new_id(annotation, where)
        return mended

    def new_id(self, annotation: dict, where: str) -> None:
        number = annotation.get("id")
        if id_problem(number) == "missing":
            kind = "annotation-id"
        elif number in self.annotation_ids:
            kind = "annotation-twice"
        elif number == 0:
            kind = "annotation-zero"
        else:
            self.annotation_ids.add(number)
            return
        annotation["id"] = self.next_id
        self.annotation_ids.add(self.next_id)
        self.change(where, kind, f"the id is now {self.next_id}")
        self.next_id += 1


def _finite(value: Any) -> Any:
    """Return the value with null for NaN and inf, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value


def _place(record: Record) -> str:
    if record.index is None:
        return record.section
    number = record.value.get("id") if isinstance(record.value, dict) else None
    at = f"{record.section}[{record.index}]"
    return f"{at} (id {number})" if type(number) in (int, str) else at
