"""Checks of the datasets that a config names, before any work is done on them."""

import logging
import os
from collections.abc import Callable, Iterator

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from .builtin import ensure_dataset
from .dataset_checks import CheckedJson, check_json, compare_classes
from .errors import DatasetError
from .image_checks import check_images_of, missing_files
from .kinds import KINDS
from .locate import layout_hint, unknown_name

__all__ = ["DatasetError", "check_datasets", "check_images", "on_one_process"]

logger = logging.getLogger(__name__)

# read at the start of a run, spread evenly: a few seconds, and what is wrong with all is seen
SAMPLE = 256


def check_datasets(cfg: CfgNode, *, training: bool = True) -> None:
    """Check that the datasets of a config are known, there and sound, and that the classes fit.

    gn_det's own datasets are built where they are missing. Every record of a COCO json is checked;
    errors are raised, warnings logged. Of several processes, one a machine reads the files.

    Args:
        cfg: a finished config.
        training: look at ``DATASETS.TRAIN`` as well as at ``DATASETS.TEST``.

    Raises:
        DatasetError: with one line for each problem.
    """
    keys = ["DATASETS.TRAIN", "DATASETS.TEST"] if training else ["DATASETS.TEST"]
    problems = []
    if training and not cfg.DATASETS.TRAIN:
        problems.append("DATASETS.TRAIN is empty: there is nothing to train on.")
    there = []
    for key in keys:
        for name in cfg.DATASETS[key.rpartition(".")[2]]:
            missing = list(_missing(name))
            problems += (f"{key} {name}: {problem}" for problem in missing)
            if not missing:
                there.append((key, name))
    problems += on_one_process(lambda: list(_content_problems(cfg, there)))
    if problems:
        raise DatasetError("\n".join(problems))


def check_images(dicts: list[dict], where: str) -> None:
    """Check that every image file is there, and read some of them as a training will.

    By one listing a folder; at most :data:`SAMPLE` images are read, whole.
    ``tools/check_dataset.py`` reads all.

    Args:
        dicts: Detectron2's dataset dicts.
        where: the config key and the names of the datasets, for the message.

    Raises:
        DatasetError: files are missing, cannot be read, or have another size than their dict says;
            the message has their number and the first of them.
    """
    missing = list(missing_files(record["file_name"] for record in dicts))
    if missing:
        raise DatasetError(
            f"{where}: {len(missing)} of {len(dicts)} images are missing, first of all:"
            f"{_listed(missing)}"
        )
    sample = dicts[:: -(-len(dicts) // SAMPLE)] if dicts else []
    files = [(d["file_name"], (d["width"], d["height"]) if "width" in d else None) for d in sample]
    bad = [
        f"{path}: {KINDS[finding.kind].what}: {finding.detail}"
        for path, finding in check_images_of(files, workers=min(8, os.cpu_count() or 1))
        if KINDS[finding.kind].severity == "error" and finding.kind != "image-size"
    ]
    if bad:
        raise DatasetError(
            f"{where}: of {len(files)} images that were opened, {len(bad)} are wrong:"
            f"{_listed(bad)}\n{_ADVICE}"
        )


_ADVICE = (
    "tools/check_dataset.py NAME_OR_JSON shows all that is wrong, and with --fix OUT.json writes a "
    "repaired copy."
)


def _listed(lines: list[str]) -> str:
    return "".join(f"\n    {line}" for line in lines[:5])


def _missing(name: str) -> Iterator[str]:
    if name not in DatasetCatalog.list():
        yield (
            f"{unknown_name(name)} Register your own by "
            "detectron2.data.datasets.register_coco_instances(name, {}, json_file, image_root) "
            "before the config is checked."
        )
        return
    ensure_dataset(name)
    metadata = MetadataCatalog.get(name)
    json_file = metadata.get("json_file")
    if json_file is not None and not os.path.isfile(json_file):
        yield f"its annotations {json_file} are missing.{layout_hint(name)}"
        return
    image_root = metadata.get("image_root")
    if image_root is not None and not os.path.isdir(image_root):
        yield f"its folder of images {image_root} is missing.{layout_hint(name)}"


def on_one_process(find: Callable[[], list[str]]) -> list[str]:
    """Return the problems that the first process of each machine finds, in all processes alike."""
    mine = find() if comm.get_local_rank() == 0 else []
    return list(dict.fromkeys(line for lines in comm.all_gather(mine) for line in lines))


def _content_problems(cfg: CfgNode, named: list[tuple[str, str]]) -> Iterator[str]:
    checked: dict[str, CheckedJson | None] = {}
    trained: list[CheckedJson] = []
    for key, name in named:
        if name not in checked:
            try:
                checked[name] = _check_json_of(name)
            except DatasetError as error:
                yield f"{key} {name}: {error}"
                return
        found = checked[name]
        if found is None:
            yield from (f"{key} {name}: {problem}" for problem in _class_problems(cfg, name, None))
            continue
        if key == "DATASETS.TRAIN":
            trained.append(found)
        else:
            for train in trained[:1]:  # Detectron2 wants the same classes in all of them
                compare_classes(found, train)
        lines = found.report.lines("error")
        if lines:
            yield f"{key} {name}: {found.path} has{_listed(lines)}\n{_ADVICE}"
        for line in found.report.lines("warning"):
            logger.warning(f"{name}: {line}")
        yield from (f"{key} {name}: {problem}" for problem in _class_problems(cfg, name, found))


def _check_json_of(name: str) -> CheckedJson | None:
    """Check the json of a dataset; None where it has none, or one in another format than COCO's."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("json_file") is None or metadata.get("evaluator_type") != "coco":
        return None
    return check_json(metadata.json_file)


def _class_problems(cfg: CfgNode, name: str, found: CheckedJson | None) -> Iterator[str]:
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is None and found is not None:
        # register_coco_instances learns the classes only when the dataset is loaded
        classes = found.class_names
    if not classes:
        return
    key = {
        "GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
        "RetinaNet": "MODEL.RETINANET.NUM_CLASSES",
        "FCOS": "MODEL.FCOS.NUM_CLASSES",
    }.get(cfg.MODEL.META_ARCHITECTURE)
    if key is None:
        return
    node = cfg
    for part in key.split("."):
        if part not in node:
            return
        node = node[part]
    shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    message = (
        f"it has {len(classes)} classes ({shown}), but {key} is {node}. Set {key} {len(classes)}."
    )
    if node < len(classes):
        yield message
    elif node > len(classes):  # trains, with outputs that no object of this dataset ever uses
        logger.warning(f"{name}: {message}")
