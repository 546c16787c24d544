"""Checks of a COCO json without its images: records, ids, references, classes.

The file is read once, record by record. Where the annotations come before the images, it is read
twice, because an annotation is checked against the size of its image. The memory holds a few
numbers for each record.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .box_evidence import BY_MASK, BoxEvidence
from .dict_records import DictRecords, refuse_malformed
from .json_reader import CocoJson, Record
from .kinds import KINDS
from .records import annotation_problems, box_problem, has_mask, id_problem, image_problems
from .report import MAX_EXAMPLES, Report

__all__ = ["CheckedJson", "ImageRecord", "check_json", "check_train_dicts", "compare_classes"]


class ImageRecord(NamedTuple):
    """An image as the json describes it.

    Attributes:
        file_name: The path of the file below the folder of images; "" where it cannot be one.
        size: The size (width, height) in pixels; None where the json has no possible one.
    """

    file_name: str
    size: tuple[int, int] | None


@dataclass
class CheckedJson:
    """The result of the checks of a json.

    Attributes:
        path: The path of the file.
        report: The problems that were found.
        images: The images by id, without those whose id cannot be one.
        classes: The names of the classes by id.
        objects: The number of annotations by class id, crowds included.
        usable: The number of annotations that training and evaluation can use: those of a known
            image with a box that has an area, without crowds.
        classes_named: Whether the names of the classes are known; if not, they are numbers.
        unmeant: Whether the boxes that have a mask (True) or none (False), all together, cannot be
            meant as they are.
        shifted: Whether the class ids of the annotations begin one below those of the classes.
    """

    path: str
    report: Report = field(default_factory=Report)
    images: dict[Any, ImageRecord] = field(default_factory=dict)
    classes: dict[Any, str] = field(default_factory=dict)
    objects: Counter[Any] = field(default_factory=Counter)
    usable: int = 0
    unmeant: set[bool] = field(default_factory=set)
    shifted: bool = False
    classes_named: bool = True

    @property
    def class_names(self) -> list[str]:
        """The names in the order of a model's outputs: by id, as Detectron2 sorts them."""
        try:
            ids = sorted(self.classes)
        except TypeError:  # text and numbers
            ids = sorted(self.classes, key=str)
        return [self.classes[i] for i in ids]

    def summary(self) -> str:
        """Return "100 images, 700 annotations, 3 classes"."""
        return (
            f"{len(self.images):,} images, {self.objects.total():,} annotations, "
            f"{len(self.classes):,} classes"
        )


def check_json(
    path: str | os.PathLike, progress: Callable[[int], Any] | None = None
) -> CheckedJson:
    """Check a COCO json. No image is read.

    Args:
        path: The path of the file.
        progress: The function that gets the number of bytes after each read.

    Raises:
        DatasetError: The file cannot be read, or is not JSON.
    """
    return _Check(CocoJson(path, progress), os.fspath(path)).run()


def check_train_dicts(dicts: Sequence[dict], classes: Sequence[str] | None) -> CheckedJson | None:
    """Check the dicts of a training set as a json is checked.

    Args:
        dicts: Detectron2's dataset dicts.
        classes: The names of the classes, the ``thing_classes`` of the metadata; None where it has
            none.

    Returns:
        The result. None where the dicts have no ``annotations``, which a mapper of one's own may
        find elsewhere, or have rotated boxes, which have other rules.

    Raises:
        DatasetError: An entry is no dict, or its annotations are none.
    """
    refuse_malformed(dicts)
    annotations = [a for record in dicts for a in record.get("annotations") or ()]
    boxes = [a.get("bbox") for a in annotations]
    rotated = any(isinstance(box, Sized) and len(box) == 5 for box in boxes)
    if rotated or not any("annotations" in record for record in dicts):
        return None
    check = _Check(DictRecords(dicts, classes), "its list of dicts")
    check.found.classes_named = classes is not None
    return check.run()


class _Check:
    """One run of the checks."""

    def __init__(self, records: CocoJson | DictRecords, path: str):
        self.json = records
        self.found = CheckedJson(path)
        self.report = self.found.report
        self.file_names: set[str] = set()
        self.annotation_ids: set[Any] = set()
        self.annotated: set[Any] = set()  # ids of images that have annotations
        self.boxes = {masked: BoxEvidence(masked) for masked in (False, True)}
        self.no_lists: set[str] = set()  # sections that are something else
        self.masks: Counter[bool] = Counter()  # the number of annotations with and without a mask
        self.first_without_mask = ""
        self.examples: dict[Any, list[str]] = defaultdict(list)  # some annotations of a class id

    def run(self) -> CheckedJson:
        early = False  # the annotations come before the images
        for record in self.json:
            for kind, detail in record.remarks:
                self.report.add(kind, record.where, detail)
            early |= record.section == "annotations" and "images" not in self.json.counts
            if not early or record.section != "annotations":
                self.record(record)
        if early:
            for record in self.json:
                if record.section == "annotations":
                    self.record(record)
        self.whole_file()
        return self.found

    def record(self, record: Record) -> None:
        check = {
            "images": self.image,
            "categories": self.category,
            "annotations": self.annotation,
        }.get(record.section)
        if check is None:
            return
        if record.place is None:
            self.no_lists.add(record.section)
            self.report.add("section", f"{record.section}: not a list", record.value)
        elif isinstance(record.value, dict):
            check(record.value, record.place)
        else:
            self.report.add("record", record.where, record.value)

    def image(self, image: dict, index: int) -> None:
        problems = image_problems(image)
        where = f"images[{index}]"
        # a training on dicts takes the size of the file
        no_size = isinstance(self.json, DictRecords) and not image.keys() & {"width", "height"}
        for kind, value in problems:
            if not (no_size and kind == "image-size"):
                self.report.add(kind, where, repr(value) if kind == "id-text" else value)
        kinds = {kind for kind, _ in problems}
        if "image-id" in kinds:
            return
        name = "" if "image-name" in kinds else image["file_name"]
        if image["id"] in self.found.images:
            others = self.found.images[image["id"]].file_name
            self.report.add("image-twice", f"{others} and {name}", image["id"])
        if name and name in self.file_names:
            self.report.add("name-twice", name)
        self.file_names.add(name)
        size = None if "image-size" in kinds else (int(image["width"]), int(image["height"]))
        self.found.images[image["id"]] = ImageRecord(name, size)

    def category(self, category: dict, index: int) -> None:
        number, name, classes = category.get("id"), category.get("name"), self.found.classes
        problem, where = id_problem(number), f"categories[{index}]"
        if problem == "missing":
            self.report.add("class-id", where, number)
            return
        if problem:
            self.report.add(problem, where, repr(number))
        if number in classes:
            self.report.add("class-twice", f"{classes[number]} and {name}", number)
        if not isinstance(name, str) or not name.strip():
            self.report.add("class-name", where, name)
            name = f"class_{number}"
        elif name in classes.values() and classes.get(number) != name:
            self.report.add("class-name-twice", name)
        classes[number] = name

    def annotation(self, annotation: dict, index: int) -> None:
        report, number = self.report, annotation.get("id")
        image_id, class_id = annotation.get("image_id"), annotation.get("category_id")
        problems = [id_problem(i) for i in (number, image_id, class_id)]
        image = None if problems[1] == "missing" else self.found.images.get(image_id)

        def where() -> str:
            # only for what is reported: the texts of 700,000 annotations take seconds
            name = image.file_name if image is not None else ""
            at = f"annotations[{index}]" if problems[0] else f"annotation {number}"
            return f"{name}, {at}" if name else at

        if problems != [None, None, None]:
            if "id-text" in problems:
                text = (number, image_id, class_id)[problems.index("id-text")]
                report.add("id-text", where(), repr(text))
            if problems[0] == "missing":
                report.add("annotation-id", where(), number)
            if "missing" in problems[1:]:
                report.add("reference", where(), {"image_id": image_id, "category_id": class_id})
        if problems[0] != "missing":
            if number in self.annotation_ids:
                report.add("annotation-twice", where(), number)
            elif number == 0:
                report.add("annotation-zero", where())
            self.annotation_ids.add(number)
        if problems[1] != "missing":
            self.annotated.add(image_id)
            if image is None:
                report.add("image-unknown", where(), image_id)
        if problems[2] != "missing":
            self.found.objects[class_id] += 1
            if len(self.examples[class_id]) < MAX_EXAMPLES:
                self.examples[class_id].append(where())
        masked = has_mask(annotation)
        self.masks[masked] += 1
        if not masked and self.masks[False] == 1:
            self.first_without_mask = where()
        size = image.size if image else None
        problems_of_shape = annotation_problems(annotation, size)
        for kind, value in problems_of_shape:
            report.add(kind, where(), value)
        if image is None or annotation.get("iscrowd"):
            return
        box: Any = annotation.get("bbox")
        usable = (None, "box-outside", "box-away")
        kinds = {kind for kind, _ in problems_of_shape}
        self.found.usable += "box-zero" not in kinds
        if size and kinds.isdisjoint(BY_MASK) and box_problem(box, size) in usable:
            self.boxes[masked].add(box, size, where)

    def whole_file(self) -> None:
        found, report, counts = self.found, self.report, self.json.counts
        if self.json.encoding == "utf-8-sig":
            report.add("byte-order-mark")
        elif self.json.encoding != "utf-8":
            report.add("encoding", value=self.json.encoding)
        for section in ("images", "categories") if found.classes_named else ("images",):
            if not counts.get(section) and section not in self.no_lists:
                state = "an empty list" if section in counts else "missing"
                report.add("section", f"{section}: {state}")
        if not counts.get("annotations"):
            report.add("no-annotations")
        for section, ids in (("images", found.images), ("categories", found.classes)):
            texts = [i for i in ids if isinstance(i, str)]
            if 0 < len(texts) < len(ids):
                report.add("id-mixed", section, texts[0])
        found.shifted = _is_shifted(found.objects, found.classes)
        hint = ", ids of annotations seem to count from 0, and those of classes from 1"
        for class_id, count in found.objects.items():
            if class_id not in found.classes:
                text = f"{class_id!r}{hint if found.shifted else ''}"
                report.add("class-unknown", self.examples[class_id][0], text, count)
        for class_id, name in found.classes.items():
            if counts.get("annotations") and not found.objects[class_id]:
                report.add("class-empty", name, class_id)
        annotated = 0 if self.masks[True] and self.masks[False] else len(self.annotated)
        for masked, boxes in self.boxes.items():
            if seen := boxes.suspicion(annotated):
                text = f"{seen.boxes:,} of {seen.total:,} boxes, such as {seen.example}"
                report.add(seen.kind, text, count=seen.boxes)
                if KINDS[seen.kind].severity == "error":
                    found.unmeant.add(masked)
        if self.masks[True] and self.masks[False]:
            report.add("mask-some", self.first_without_mask, count=self.masks[False])
        for image_id, image in found.images.items():
            if image_id not in self.annotated:
                report.add("image-empty", image.file_name)


def _is_shifted(used: Iterable[Any], known: Iterable[Any]) -> bool:
    """Return whether class ids look like places from 0 of classes whose ids begin with 1."""
    used, known = set(used), set(known)
    whole = {type(i) for i in used | known} == {int}
    return whole and 0 in used - known and 1 in known and {i + 1 for i in used} <= known


def compare_classes(found: CheckedJson, train: CheckedJson) -> None:
    """Report the classes that a model of other training data does not know, or takes for others.

    A model's outputs are in the order of the class ids, so class number k has to be the same in
    both. A dataset may lack the last classes of the training data.

    Args:
        found: The dataset whose report gets the problems.
        train: The training data.
    """
    if not (found.classes_named and train.classes_named):
        return
    names, known = found.class_names, train.class_names
    trained = {train.classes[i] for i in train.objects if i in train.classes}
    for place, name in enumerate(names):
        if name not in known:
            found.report.add("class-not-in-train", name)
        elif place >= len(known) or known[place] != name:
            found.report.add(
                "class-order", f"{name} is number {place} here, {known.index(name)} in {train.path}"
            )
        elif name not in trained:
            found.report.add("class-untrained", name)
