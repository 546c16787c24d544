"""Check a dataset in COCO's format: its json, images and classes.

gn-det check-dataset coco_2017_train
gn-det check-dataset my_train.json --image-root images --fix my_train_fixed.json
gn-det check-dataset my_val.json --train my_train.json --no-images

docs/datasets.md lists what is checked. Exit status: 0; 1 where there are errors (with --fix: where
errors are left in the copy); 2 where the dataset could not be read.
"""

import argparse
import os
import sys

from tqdm import tqdm

from gn_det.data import (
    CheckedJson,
    changes_file,
    check_files,
    check_json,
    compare_classes,
    locate_dataset,
    refuse_existing,
    repair,
)
from gn_det.engine import docstring_parser, positive

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = docstring_parser(__doc__)
    parser.add_argument("dataset", metavar="NAME_OR_JSON", help="a registered name, or a path")
    parser.add_argument(
        "--image-root",
        metavar="FOLDER",
        help="the folder of the images (default: the registered one, or the json's)",
    )
    parser.add_argument(
        "--train", metavar="NAME_OR_JSON", help="a training set to compare the classes with"
    )
    parser.add_argument(
        "--no-images",
        action="store_true",
        help="check that the image files exist, but do not open them",
    )
    parser.add_argument(
        "--window",
        action="store_true",
        help="images may have more than 8 bits, because the config has an INPUT.WINDOW",
    )
    parser.add_argument(
        "--fix", metavar="OUT.json", help="a repaired copy to write; no file is overwritten"
    )
    parser.add_argument(
        "--workers",
        type=positive,
        default=min(16, os.cpu_count() or 1),
        help="threads that read images (default: %(default)s)",
    )
    return parser


def main(args: argparse.Namespace) -> int:
    """Check a dataset, print what is wrong, and write a repaired copy where ``--fix`` asks for it.

    Returns:
        The exit status: 1 where there are errors, or where ``--fix`` left some; else 0.
    """
    if args.fix:
        refuse_existing(args.fix)
    json_file, image_root = locate_dataset(args.dataset, args.image_root)
    found = read(json_file)
    with bar(len(found.images), "images", "image", args.no_images) as progress:
        files = check_files(
            found.images.values(),
            image_root,
            found.report,
            opened=not args.no_images,
            window=args.window,
            workers=args.workers,
            progress=progress.update,
        )
    train = read(locate_dataset(args.train).json_file) if args.train else None
    if train:
        compare_classes(found, train)
    print(f"{json_file}: {found.summary()}\nimages in {image_root}")
    if files and found.report.counts["file-missing"] == len(found.images):
        print("None of them is there: --image-root names another folder.")
    show(found)
    if not args.fix:
        return status(found)
    done = repair(json_file, args.fix, files, found)
    copy = read(args.fix)
    # files that were found by another name have not been opened yet
    renamed = {finding.name for finding in files.values() if finding.name}
    if renamed and not args.no_images:
        images = [image for image in copy.images.values() if image.file_name in renamed]
        check_files(images, image_root, copy.report, workers=args.workers)
    if train:
        compare_classes(copy, train)
    print(f"\n{args.fix}: {copy.summary()}\n{done.changes:,} changes, in {changes_file(args.fix)}")
    removed = [f"{count:,} {section}" for section, count in done.removed.items() if count]
    if removed:
        print(f"Removed: {', '.join(removed)}.")
    if done.masks:
        print(
            f"{done.masks:,} annotations lost their mask and kept their box. Training with "
            "MODEL.MASK_ON needs a mask for each."
        )
    show(copy)
    return status(copy)


def read(json_file: str) -> CheckedJson:
    """Check a json under a progress bar of its bytes."""
    size = os.path.getsize(json_file) if os.path.isfile(json_file) else 0
    with bar(size, os.path.basename(json_file), "B") as progress:
        return check_json(json_file, progress.update)


def show(found: CheckedJson) -> None:
    """Print the table and its summary."""
    table = found.report.table()
    print(f"\n{table}\n\n{found.report.summary()}" if table else f"\n{found.report.summary()}")


def status(found: CheckedJson) -> int:
    """Return the exit status for what was found."""
    lost = found.report.counts["image-unknown"]
    if lost and lost == found.objects.total():
        print("No annotation is of an image of this json: each image would be one without objects.")
        return 1
    return 1 if found.report.of("error") else 0


def bar(total: int, name: str, unit: str, hidden: bool = False) -> tqdm:
    """Return a progress bar that only a person sees."""
    return tqdm(
        total=total,
        desc=name,
        unit=unit,
        unit_scale=unit == "B",
        dynamic_ncols=True,
        leave=False,
        disable=hidden or not sys.stderr.isatty(),
    )
