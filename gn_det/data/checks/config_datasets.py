"""Checks of the datasets that a config names, at the start of a run.

A dataset whose metadata have a ``json_file`` is checked as a COCO json. Another one is a list of
dicts, which gets the same checks; for an evaluation, it is converted to COCO's format first.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from tempfile import TemporaryDirectory

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from gn_det.config import flatten, max_detections
from gn_det.data.catalog import json_of, layout_hint
from gn_det.data.class_names import class_names, differing_classes
from gn_det.data.coco_files import locale_problem
from gn_det.data.errors import DatasetError
from gn_det.data.formats import DICT_FIELDS, write_coco_json
from gn_det.utils import and_more

from .coco_json import CheckedJson, check_json, check_train_dicts, compare_classes
from .depth import depth_problem, window_warnings
from .dict_records import refuse_malformed
from .images import check_images_of, missing_files
from .kinds import KINDS
from .many_objects import warn_of_many_objects
from .resized_size import narrow_problem

__all__ = ["check_datasets", "check_dicts", "check_images", "check_masks", "on_one_process"]

logger = logging.getLogger(__name__)

# Images that are read at the start of a run, spread evenly over the dataset. It takes a few
# seconds, and shows what is wrong with all images.
SAMPLE = 256


def check_datasets(cfg: CfgNode, *, training: bool = True) -> None:
    """Check that a config's datasets are registered, exist and are sound, and the classes fit.

    A missing embedded dataset is built. Every record of a COCO json is checked. For
    ``DATASETS.TEST``, the images are checked too (see :func:`check_images`), and that there is
    something to score. Errors are raised, warnings are logged. One process of each machine reads
    the files.

    Args:
        cfg: A complete config.
        training: Whether to check ``DATASETS.TRAIN`` as well as ``DATASETS.TEST``.

    Raises:
        DatasetError: There are problems. The message has one line for each.
    """
    keys = ["DATASETS.TRAIN", "DATASETS.TEST"] if training else ["DATASETS.TEST"]
    problems = []
    if training and not cfg.DATASETS.TRAIN:
        problems.append("DATASETS.TRAIN is empty: there is nothing to train on.")
    found = []
    for key in keys:
        for name in cfg.DATASETS[key.rpartition(".")[2]]:
            missing = _missing(name)
            if missing:
                problems.append(f"{key} {missing}")
            else:
                found.append((key, name))
    problems += on_one_process(lambda: list(_content_problems(cfg, found)))
    if problems:
        raise DatasetError("\n".join(problems))


def check_dicts(name: str, dicts: list[dict]) -> CheckedJson:
    """Check a dataset that is a list of dicts, in COCO's format, in which it is scored.

    Args:
        name: The name of the registered dataset.
        dicts: Its dicts.

    Raises:
        DatasetError: The dicts cannot be converted to COCO's format.
    """
    refuse_malformed(dicts)
    without = [place for place, record in enumerate(dicts) if "image_id" not in record]
    if without:
        raise DatasetError(f"{name}: its dict {without[0]} has no image_id. {DICT_FIELDS}")
    with TemporaryDirectory() as folder:
        path = os.path.join(folder, "dicts.json")
        write_coco_json(name, path)
        found = check_json(path)
    found.path = "its list of dicts"
    return found


def check_images(dicts: list[dict], where: str, cfg: CfgNode | None = None) -> None:
    """Check that every image file exists, and read some of them as a training does.

    Each folder is listed once, and at most :data:`SAMPLE` images are read.
    ``gn-det check-dataset`` reads all images.

    Args:
        dicts: Detectron2's dataset dicts.
        where: The config key and the names of the datasets, for the message.
        cfg: The config with ``INPUT.WINDOW`` and the sizes of ``INPUT`` in training; default:
            the images need no window, and are not resized.

    Raises:
        DatasetError: Files are missing, cannot be read, have another size than their dict says,
            have more than 8 bits without ``INPUT.WINDOW``, or are too narrow to be resized. The
            message has their number and the first ones.
    """
    if problem := _image_problem(dicts, where, cfg, training=True):
        raise DatasetError(f"{where}: {problem}")


def check_masks(dicts: list[dict], where: str) -> None:
    """Check that every object has a mask. Crowds need none, because training leaves them out.

    Args:
        dicts: Detectron2's dataset dicts.
        where: The config key and the names of the datasets, for the message.

    Raises:
        DatasetError: Objects have no mask. The message has their number and the first image.
    """
    if problem := _mask_problem(dicts, crowds=False):
        raise DatasetError(f"{where}: {problem}")


def _image_problem(
    dicts: list[dict], where: str, cfg: CfgNode | None, *, training: bool
) -> str | None:
    missing = list(missing_files(record["file_name"] for record in dicts))
    if missing:
        return f"{len(missing)} of {len(dicts)} images are missing, the first:{_listed(missing)}"
    sample = dicts[:: -(-len(dicts) // SAMPLE)] if dicts else []
    files = [(d["file_name"], (d["width"], d["height"]) if "width" in d else None) for d in sample]
    found = dict(check_images_of(files, workers=min(8, os.cpu_count() or 1)))
    bad = [
        f"{path}: {KINDS[finding.kind].description}: {finding.detail}"
        for path, finding in found.items()
        if KINDS[finding.kind].severity == "error"
        and finding.kind not in ("image-size", "file-depth")
    ]
    if bad:
        return (
            f"of {len(files)} images that were read, {len(bad)} are wrong:{_listed(bad)}\n{_ADVICE}"
        )
    stacks = [path for path, finding in found.items() if finding.pages > 1]
    if stacks:
        logger.warning(
            f"{where}: {len(stacks)} of {len(files)} images that were read are TIFFs with several "
            f"pages, such as {stacks[0]}: only the first page is used."
        )
    deep = {path: finding.values for path, finding in found.items() if finding.values}
    window = () if cfg is None else cfg.INPUT.WINDOW
    for warning in window_warnings(deep, [path for path, _ in files], window) if window else ():
        logger.warning(f"{where}: {warning}")
    if not window and (problem := depth_problem(deep, len(files))):
        return problem
    return None if cfg is None else narrow_problem(dicts, cfg, training=training)


def _mask_problem(dicts: list[dict], crowds: bool) -> str | None:
    owners = [
        (record["file_name"], _has_mask(annotation))
        for record in dicts
        for annotation in record.get("annotations", ())
        if crowds or not annotation.get("iscrowd", 0)
    ]
    without = [file_name for file_name, masked in owners if not masked]
    if not without:
        return None
    return (
        f"{len(without)} of {len(owners)} annotations have no mask, the first in {without[0]}, "
        "but MODEL.MASK_ON is True. Set MODEL.MASK_ON False, or add masks."
    )


def _has_mask(annotation: dict) -> bool:
    mask = annotation.get("segmentation")  # polygons, RLE, or an array
    return mask is not None and len(mask) > 0


_ADVICE = (
    "gn-det check-dataset NAME_OR_JSON shows all that is wrong, and with --fix OUT.json writes a "
    "fixed copy."
)


def _listed(lines: list[str]) -> str:
    return "".join(f"\n    {line}" for line in lines[:5])


def _missing(name: str) -> str | None:
    try:
        json_of(name)
    except DatasetError as error:
        return str(error) if name in DatasetCatalog.list() else f"{error} {_REGISTER}"
    image_root = MetadataCatalog.get(name).get("image_root")
    if image_root is not None and not os.path.isdir(image_root):
        return f"{name}: its folder of images {image_root} is missing.{layout_hint(name)}"
    return None


_REGISTER = (
    "Name yours in DATASETS.REGISTER as [name, json file, folder of images], or register it by "
    "detectron2.data.datasets.register_coco_instances(name, {}, json_file, image_root) "
    "before the config is checked."
)


def on_one_process(find: Callable[[], list[str]]) -> list[str]:
    """Let the first process of each machine look for problems, and share them with all processes.

    Args:
        find: The function that returns the problems.

    Returns:
        The problems of all machines, each once; the same in all processes.
    """
    mine = find() if comm.get_local_rank() == 0 else []
    return list(dict.fromkeys(line for lines in comm.all_gather(mine) for line in lines))


def _content_problems(cfg: CfgNode, named: list[tuple[str, str]]) -> Iterator[str]:
    load = cache(DatasetCatalog.get)
    checked: dict[str, CheckedJson | None] = {}
    trained: list[CheckedJson] = []
    for key, name in named:
        tested = key == "DATASETS.TEST"
        try:
            if checked.get(name) is None or (tested and not json_of(name)):
                checked[name] = _check_annotations(name, load, tested)
        except DatasetError as error:
            yield f"{key} {name}: {str(error).removeprefix(f'{name}: ')}"
            return
        found = checked[name]
        yield from (f"{key} {name}: {problem}" for problem in _class_problems(cfg, name, found))
        if found is None:
            continue
        if not tested:
            trained.append(found)
        else:
            for train in trained[:1]:  # Detectron2 needs the same classes in all of them
                compare_classes(found, train)
        lines = found.report.lines("error")
        if lines:
            advice = f"\n{_ADVICE}" if json_of(name) else ""
            yield f"{key} {name}: {found.path} has{_listed(lines)}{advice}"
        elif tested:
            _warn_of_many_objects(cfg, name, load(name))
            problems = _test_problems(cfg, name, found, load(name))
            yield from (f"{key} {name}: {problem}" for problem in problems)
        for line in found.report.lines("warning"):
            logger.warning(f"{name}: {line}")
    yield from _problems_of_several(cfg, checked)
    every_one = trained and len(trained) == len(cfg.DATASETS.TRAIN)
    useless = not any(train.usable or train.report.of("error") for train in trained)
    if every_one and useless and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        yield f"DATASETS.TRAIN {cfg.DATASETS.TRAIN}: there is nothing to learn: {_NO_OBJECT}"


def _problems_of_several(cfg: CfgNode, checked: Mapping[str, CheckedJson | None]) -> Iterator[str]:
    """Yield which training sets have other classes than the first one.

    Test sets are compared here too where one of both has no json.
    """
    tests = [name for name in cfg.DATASETS.TEST if name in checked]
    trains = [name for name in cfg.DATASETS.TRAIN if name in checked]
    if not trains or len({*trains, *tests}) == 1:
        return
    names = {
        # a list of dicts may have them only once it is loaded
        name: _known_names(name, checked[name]) or class_names(name).get("thing_classes", [])
        for name in {*trains, *tests}
    }
    first, known = trains[0], names[trains[0]]
    for name in dict.fromkeys(trains[1:]):
        if not (names[name] and known):
            unknown = name if known else first
            logger.warning(
                f"DATASETS.TRAIN {unknown}: the names of its classes are not known (the metadata "
                f"thing_classes); class numbers are taken to mean the same in {first} and {name}."
            )
        elif found := differing_classes(known, names[name], f"in {first}", f"in {name}"):
            yield (
                f"DATASETS.TRAIN {name}: its classes are not those of {first}: {found}. Several "
                "training sets need the same classes in the same order of their ids. Give their "
                "jsons the same categories."
            )
    for name in tests:
        if not (checked[first] and checked[name]) and names[name] and known:
            # it may lack the last ones
            shown = known[: len(names[name])]
            if found := differing_classes(shown, names[name], f"in {first}", f"in {name}"):
                yield f"DATASETS.TEST {name}: its classes are not those of {first}: {found}."


def _known_names(name: str, found: CheckedJson | None) -> list[str]:
    """Return the names of the classes of a dataset; [] where it has numbers alone."""
    return _class_names(name, found if found and found.classes_named else None)


def _class_names(name: str, found: CheckedJson | None) -> list[str]:
    """Return the names of the classes of a dataset; [] where they are not known."""
    known = MetadataCatalog.get(name).get("thing_classes")
    if known is None and found is not None:
        # register_coco_instances learns the classes only when the dataset is loaded
        known = found.class_names
    return list(known or ())


_NO_OBJECT = "no image has an annotation that is not a crowd. Is this the right json?"


def _check_annotations(
    name: str, load: Callable[[str], list[dict]], tested: bool
) -> CheckedJson | None:
    """Check the annotations of a dataset.

    Args:
        name: The name of the dataset.
        load: The function that returns the dicts of a name.
        tested: Whether it is a test set, which has to fit COCO's format.

    Returns:
        The result; None where the dataset was not checked.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type", "coco") != "coco":
        return None
    if json_file := metadata.get("json_file"):
        if problem := locale_problem(name, json_file):
            raise DatasetError(problem)
        return check_json(json_file)
    if tested:
        return check_dicts(name, load(name))
    return check_train_dicts(load(name), metadata.get("thing_classes"))


def _test_problems(cfg: CfgNode, name: str, found: CheckedJson, dicts: list[dict]) -> Iterator[str]:
    if not found.usable:
        yield f"there is nothing to score: {_NO_OBJECT}"
    elif cfg.MODEL.MASK_ON and (problem := _mask_problem(dicts, crowds=True)):
        yield problem
    objects = (a for record in dicts for a in record.get("annotations", ()))
    if found.usable and cfg.MODEL.KEYPOINT_ON and not any(a.get("keypoints") for a in objects):
        yield (
            "no annotation has keypoints, but MODEL.KEYPOINT_ON is True. Set MODEL.KEYPOINT_ON "
            "False, or add keypoints."
        )
    if problem := _image_problem(dicts, f"DATASETS.TEST {name}", cfg, training=False):
        yield problem


def _warn_of_many_objects(cfg: CfgNode, name: str, dicts: list[dict]) -> None:
    objects = (
        (
            record["file_name"],
            [a["category_id"] for a in record.get("annotations", ()) if not a.get("iscrowd")],
        )
        for record in dicts
    )
    scored = max_detections(cfg)
    # keypoints and proposals have limits of their own
    if cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork":
        warn_of_many_objects(name, objects, scored, cfg.TEST.DETECTIONS_PER_IMAGE)


def _class_problems(cfg: CfgNode, name: str, found: CheckedJson | None) -> Iterator[str]:
    classes = _class_names(name, found)
    if not classes:
        return
    key = {
        "GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
        "RetinaNet": "MODEL.RETINANET.NUM_CLASSES",
        "FCOS": "MODEL.FCOS.NUM_CLASSES",
    }.get(cfg.MODEL.META_ARCHITECTURE)
    number = dict(flatten(cfg)).get(key) if key else None
    if number is None:
        return
    message = (
        f"it has {len(classes)} classes ({and_more(classes, 5)}), but {key} is {number}. "
        f"Set {key} {len(classes)}."
    )
    if number < len(classes):
        yield message
    elif number > len(classes):  # such a model trains, with outputs that no object uses
        logger.warning(f"{name}: {message}")
