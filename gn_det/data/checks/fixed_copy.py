"""Writes a fixed copy of a COCO json, and a list of the changes. The input is not changed."""

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TextIO

from gn_det.data.errors import DatasetError

from .coco_json import CheckedJson, check_json
from .fix_annotation import fix_annotation
from .images import ImageFinding
from .json_reader import CocoJson, Record
from .records import MAX_ID, has_mask, id_problem, image_problems, whole
from .report import shown

__all__ = ["Repaired", "changes_file", "refuse_existing", "repair"]

_REMOVED = object()
_KINDS_SHOWN = 3  # reasons for which nothing would be left


class Repaired(NamedTuple):
    """What a fixed copy has that its input has not.

    Attributes:
        changes: The number of changes.
        removed: The number of records that were removed, by the section.
        masks: The number of masks that were removed, and their boxes kept.
    """

    changes: int
    removed: dict[str, int]
    masks: int


def changes_file(out: str | os.PathLike) -> str:
    """Return the path of the list of changes.

    Args:
        out: The path of the fixed copy.
    """
    return f"{os.fspath(out)}.changes.txt"


def refuse_existing(out: str | os.PathLike) -> None:
    """Refuse to overwrite a file by the fixed copy or its list of changes.

    Args:
        out: The path of the fixed copy.

    Raises:
        DatasetError: One of the two files exists, or their folder does not.
    """
    for path in (os.fspath(out), changes_file(out)):
        if os.path.lexists(path):
            raise DatasetError(f"{path} exists already. Choose another name for the fixed copy.")
    folder = os.path.dirname(os.fspath(out)) or "."
    if not os.path.isdir(folder):
        raise DatasetError(f"{out} cannot be written: there is no folder {folder}.")


def repair(
    path: str | os.PathLike,
    out: str | os.PathLike,
    files: Mapping[str, ImageFinding] | None = None,
    found: CheckedJson | None = None,
) -> Repaired:
    """Write a fixed copy to ``out``, and a list of the changes to ``out``.changes.txt.

    Args:
        path: The path of the COCO json. It is read twice, record by record.
        out: The path of the copy. Neither the copy nor the list may exist.
        files: The problems of the image files by their ``file_name``, from
            :func:`gn_det.data.check_files`.
        found: The result of :func:`gn_det.data.check_json`; None means that it is called here.

    Returns:
        What was changed and removed.

    Raises:
        DatasetError: The input is not JSON, the output exists or cannot be written, or no image or
            no annotation would be left in it. No file is left then.
    """
    refuse_existing(out)
    found = found or check_json(path)
    try:
        with (
            open(changes_file(out), "x", encoding="utf-8", errors="backslashreplace") as changes,
            open(out, "x", encoding="utf-8") as file,
        ):
            return _FixedCopy(CocoJson(path), files or {}, found, changes).write(file)
    except BaseException as error:
        for written in (out, changes_file(out)):
            with suppress(OSError):
                os.remove(written)
        if isinstance(error, OSError):
            raise DatasetError(f"{out} cannot be written: {error.strerror or error}.") from None
        if isinstance(error, RecursionError):
            raise DatasetError(f"{path}: values are nested too deep to be fixed.") from None
        raise


class _FixedCopy:
    """One fixed copy. First the images and classes are fixed, then all is copied.

    Args:
        source: The json.
        files: The problems of the image files by their ``file_name``.
        found: What the check of the json has found.
        changes: The file that gets one line for each change.
    """

    def __init__(
        self,
        source: CocoJson,
        files: Mapping[str, ImageFinding],
        found: CheckedJson,
        changes: TextIO,
    ):
        self.json, self.files, self.found, self.changes = source, files, found, changes
        self.count = self.masks = 0
        self.left: Counter[str] = Counter()  # records in the copy by section
        self.reasons: Counter[str] = Counter()  # of what was removed
        self.images: dict[int, dict] = {}  # by place in the list; without the removed ones
        self.categories: dict[int, dict] = {}
        self.annotation_ids: set[Any] = set()

    def change(self, where: str, kind: str, change: str) -> None:
        """Add a line to the list of changes."""
        self.count += 1
        self.reasons[kind] += change.startswith("removed")
        self.changes.write(f"{shown(where, 160)}: {kind}: {shown(change, 400)}\n")

    def write(self, file: TextIO) -> Repaired:
        largest = 0
        for record in self.json:
            if not isinstance(record.value, dict) or record.place is None:
                continue
            if record.section == "images":
                self.image(record.value, record.place)
            elif record.section == "categories":
                self.category(record.value, record.place)
            elif record.section == "annotations":
                number = whole(record.value.get("id"))
                if type(number) is int and number < MAX_ID // 2:  # there are free ones above
                    largest = max(largest, number)
        self.next_id = largest + 1
        images = self.without_duplicates("image", self.images, "file_name")
        self.sizes = {i: (image["width"], image["height"]) for i, image in images.items()}
        classes = self.without_duplicates("class", self.categories, "name")
        self.class_ids = set(classes)
        # annotations may name what they mean
        self.image_names: dict[str, Any] = {}
        for part in (_stem, os.path.basename, str):  # a whole name comes before a part of one
            self.image_names |= _by_name({i: part(images[i]["file_name"]) for i in images})
        self.class_names = _by_name({i: classes[i]["name"] for i in classes})
        if self.json.encoding != "utf-8":
            kind = "byte-order-mark" if self.json.encoding == "utf-8-sig" else "encoding"
            self.change("the file", kind, f"written as UTF-8, it was {self.json.encoding}")
        self.copy(file)
        counts = self.json.counts
        for section in ("images", "annotations"):
            if counts.get(section) and not self.left[section]:
                raise DatasetError(self.nothing_left(section))
        removed = {section: counts[section] - self.left[section] for section in counts}
        return Repaired(self.count, removed, self.masks)

    def nothing_left(self, section: str) -> str:
        """Return why a copy is not written."""
        count = self.json.counts[section]
        reasons = ", ".join(
            f"{number:,} x {kind}" for kind, number in (+self.reasons).most_common(_KINDS_SHOWN)
        )
        hint = ""
        if self.reasons["file-missing"]:
            hint = " Does --image-root name the right folder?"
        elif self.reasons["class-unknown"] and not self.left["categories"]:
            hint = ' Write the classes first: "categories": [{"id": 1, "name": "..."}, ...].'
        elif self.reasons["image-size"]:
            hint = " Without --no-images, sizes are read from the files."
        return (
            f"{self.json.path}: no copy is written, because none of its {count:,} {section} would "
            f"be left. They would be removed for {reasons}.{hint}"
        )

    # -- images and classes --------------------------------------------------------------------

    def image(self, image: dict, index: int) -> None:
        name = image.get("file_name")
        where = f"images[{index}] {name if isinstance(name, str) else ''}".rstrip()
        self.plain_id(image, "id", where)
        finding = self.files.get(name) if isinstance(name, str) else None
        if finding and finding.name:
            image["file_name"] = finding.name
            self.change(where, finding.kind, f"file_name is now {finding.name}")
            finding = None
        for side in ("width", "height"):
            if type(image.get(side)) is str and type(whole(image[side])) is int:
                self.change(where, "image-size", f"{side} {image[side]!r} is now a number")
                image[side] = whole(image[side])
        real = finding.size if finding and finding.kind != "file-rotated" else None
        if finding and real and real != (image.get("width"), image.get("height")):
            image["width"], image["height"] = real
            kind = "file-size" if finding.kind == "file-size" else "image-size"
            self.change(where, kind, f"the size is now the file's, {real}")
        for kind, _ in image_problems(image):
            if kind == "image-number":
                image["width"], image["height"] = int(image["width"]), int(image["height"])
                self.change(where, kind, "written as whole numbers")
            elif kind != "id-text":
                self.change(where, kind, "removed, with its annotations")
                return
        if finding and real is None:
            self.change(where, finding.kind, "removed, with its annotations")
            return
        self.images[index] = image

    def category(self, category: dict, index: int) -> None:
        where = f"categories[{index}]"
        self.plain_id(category, "id", where)
        if id_problem(category.get("id")) == "missing":
            self.change(where, "class-id", "removed")
            return
        name = category.get("name")
        if not isinstance(name, str) or not name.strip():
            plain = type(name) in (int, float)  # a digit, say
            category["name"] = str(name) if plain else f"class_{category['id']}"
            self.change(where, "class-name", f"{name!r} is now {category['name']!r}")
        self.categories[index] = category

    def plain_id(self, record: dict, key: str, where: str) -> None:
        """Replace an id such as "12" or 12.0 by the whole number."""
        old = record.get(key)
        new = whole(old)
        if type(new) is not type(old):
            record[key] = new
            self.change(where, "id-text", f"{key} {old!r} is now {new}")

    def without_duplicates(self, what: str, records: dict[int, dict], key: str) -> dict[Any, dict]:
        """Remove records that have the same id from ``records``, and return the rest by id.

        Where all of them have the same ``key``, the first one is kept. Images that differ are all
        removed, because nobody knows whose the annotations are. Classes that differ are not fixed
        automatically.

        Args:
            what: The kind of records, "image" or "class".
            records: The records by place.
            key: The key that says whether two records are the same.
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
                removed = records.pop(place)
                self.change(f"{what} {number} {removed[key]}", f"{what}-twice", "removed")
        return {record["id"]: record for record in records.values()}

    # -- the copy ------------------------------------------------------------------------------

    def copy(self, file: TextIO) -> None:
        section: str | None = None  # the list that is being written
        first = True  # no record of that list was written yet
        opened = False  # something of the outermost level was written
        file.write("{")
        for record in self.json:
            for kind, detail in record.remarks:
                self.change(record.where, kind, detail)
            if record.section != section:
                file.write("]" if section is not None else "")
                file.write(f"{',' if opened else ''}\n{json.dumps(record.section)}: ")
                file.write("[" if record.place is not None else "")
                opened = True
                section, first = (record.section if record.place is not None else None), True
            value = self.fixed(record)
            if value is _REMOVED:
                continue
            self.left[record.section] += 1
            text = json.dumps(_finite(value), allow_nan=False)
            file.write(text if record.place is None or first else f",\n{text}")
            first = False
        if section is not None:
            file.write("]")
        for name, count in self.json.counts.items():
            if not count:  # an empty list has no record, so the loop has not seen it
                file.write(f"{',' if opened else ''}\n{json.dumps(name)}: []")
                opened = True
        file.write("}\n")

    def fixed(self, record: Record) -> Any:
        """Return the value of a record in the copy, or _REMOVED."""
        if record.place is None or record.section not in ("images", "categories", "annotations"):
            return record.value
        if not isinstance(record.value, dict):
            self.change(record.where, "record", f"removed: {shown(record.value)}")
            return _REMOVED
        if record.section == "images":
            return self.images.get(record.place, _REMOVED)
        if record.section == "categories":
            return self.categories.get(record.place, _REMOVED)
        return self.annotation(record.value, record.where)

    def annotation(self, annotation: dict, where: str) -> Any:
        """Return a fixed annotation, or _REMOVED."""
        for key in ("id", "image_id", "category_id"):
            self.plain_id(annotation, key, where)
        for key, known, names, kind in (
            ("image_id", self.sizes, self.image_names, "image-unknown"),
            ("category_id", self.class_ids, self.class_names, "class-unknown"),
        ):
            name = annotation.get(key)
            if isinstance(name, str) and name not in known and name in names:
                annotation[key] = names[name]
                self.change(where, kind, f"{key} {name} is now {names[name]}, which has this name")
        image_id, class_id = annotation.get("image_id"), annotation.get("category_id")
        if "missing" in (id_problem(image_id), id_problem(class_id)):
            self.change(where, "reference", "removed")
            return _REMOVED
        if image_id not in self.sizes:
            self.change(where, "image-unknown", f"removed: there is no image {image_id}")
            return _REMOVED
        if class_id not in self.class_ids and not self.found.shifted:
            self.change(where, "class-unknown", f"removed: there is no class {class_id}")
            return _REMOVED
        masked = has_mask(annotation)
        fixed, fixes = fix_annotation(annotation, self.sizes[image_id], unmeant=self.found.unmeant)
        for fix in fixes:
            self.change(where, *fix)
        if fixed is None:
            return _REMOVED
        self.masks += masked and not has_mask(fixed)
        self.unique_id(fixed, where)
        return fixed

    def unique_id(self, annotation: dict, where: str) -> None:
        """Give an annotation a new id where it has none, 0, or that of another."""
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


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _by_name(names: Mapping[Any, str]) -> dict[str, Any]:
    """Return ids by their name, without names that several have."""
    uses = Counter(names.values())
    return {name: i for i, name in names.items() if uses[name] == 1}


def _finite(value: Any) -> Any:
    """Return the value with None in place of NaN and inf, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value
