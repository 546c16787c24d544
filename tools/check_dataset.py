#!/usr/bin/env python
"""Check a dataset in COCO's format: its json, its images, its classes.

tools/check_dataset.py coco_2017_train
tools/check_dataset.py my_train.json --image-root images --fix my_train_fixed.json
tools/check_dataset.py my_val.json --train my_train.json --no-images

What is found stands in docs/datasets.md. Exit status: 0; 1 where there are errors (with --fix:
where errors are left in the copy); 2 where the dataset could not be read.
"""

import argparse
import os
import sys

from tqdm import tqdm

from gn_det.config import ConfigError
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
from gn_det.engine import docstring_parser


def main(args: argparse.Namespace) -> int:
    """Check, show, and perhaps repair; returns the exit status."""
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
        return 1 if found.report.of("error") else 0
    changes = repair(json_file, args.fix, files)
    copy = read(args.fix)
    if train:
        compare_classes(copy, train)
    print(f"\n{args.fix}: {copy.summary()}\n{changes:,} changes, in {changes_file(args.fix)}")
    show(copy)
    return 1 if copy.report.of("error") else 0


def read(json_file: str) -> CheckedJson:
    """Check a json under a progress bar of its bytes."""
    size = os.path.getsize(json_file) if os.path.isfile(json_file) else 0
    with bar(size, os.path.basename(json_file), "B") as progress:
        return check_json(json_file, progress.update)


def show(found: CheckedJson) -> None:
    """Print the table and its summary."""
    table = found.report.table()
    print(f"\n{table}\n\n{found.report.summary()}" if table else f"\n{found.report.summary()}")


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


def positive(text: str) -> int:
    """Return a number of threads."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


if __name__ == "__main__":
    parser = docstring_parser(__doc__)
    parser.add_argument("dataset", metavar="NAME_OR_JSON", help="a registered name, or a path")
    parser.add_argument(
        "--image-root", metavar="FOLDER", help="of the images (default: the registered, or json's)"
    )
    parser.add_argument(
        "--train", metavar="NAME_OR_JSON", help="compare with the classes of this training set"
    )
    parser.add_argument(
        "--no-images", action="store_true", help="only see that image files are there, not inside"
    )
    parser.add_argument("--fix", metavar="OUT.json", help="write a repaired copy; never overwrites")
    parser.add_argument(
        "--workers",
        type=positive,
        default=min(16, os.cpu_count() or 1),
        help="threads that read images (default: %(default)s)",
    )
    args = parser.parse_args()
    # names out of a file may have letters that the terminal does not
    sys.stdout.reconfigure(errors="backslashreplace")
    sys.stderr.reconfigure(errors="backslashreplace")
    try:
        status = main(args)
    except (ConfigError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)
