"""Datasets: names and formats, the embedded one, checks, pre-training data, the training stream.

Where to look:
    formats.py, catalog.py: the formats of datasets, and their names. A new format goes here.
    coco_files.py: COCO's jsons, read as UTF-8 in every locale.
    embedded/: photo digits, the dataset that is built on this machine.
    checks/: checks of a dataset and of a config's datasets, and the fixed copy.
    pretraining/: labelled images for the pre-training of backbones. A new source goes here.
    read_image.py, mapper.py: images of any depth as 8 bits, and the input of a model.
    stream.py, train_loader.py: the stream of training images that can start at any step.
    send.py: a batch on its way to a GPU.
"""

from .catalog import json_of, locate_dataset, register_datasets
from .checks.coco_json import CheckedJson, check_json, compare_classes
from .checks.config_datasets import check_datasets, check_images, check_masks
from .checks.fixed_copy import changes_file, refuse_existing, repair
from .checks.images import check_files
from .checks.many_objects import warn_of_many_objects
from .class_names import class_names, class_names_of_file, differing_classes
from .coco_files import load_dicts, plain_json, read_coco
from .embedded.photo_digits import build_photo_digits
from .embedded.registration import ensure_dataset, register_photo_digits
from .errors import DatasetError
from .formats import FORMATS, write_coco_json
from .mapper import WindowedMapper
from .mask_format import needs_bitmasks
from .pretraining.labelled_data import LabelledSplit
from .pretraining.loaders import build_eval_loader, build_train_loader
from .pretraining.sources import check_labelled_data, labelled_split
from .read_image import read_image
from .seeding import choose_seed, kept_rng, seed_everything
from .send import send_batch
from .stream import TrainStream
from .train_loader import build_train_stream, stream_of
from .worker_watch import MapperError, WorkerDied

__all__ = [
    "FORMATS",
    "CheckedJson",
    "DatasetError",
    "LabelledSplit",
    "MapperError",
    "TrainStream",
    "WindowedMapper",
    "WorkerDied",
    "build_eval_loader",
    "build_photo_digits",
    "build_train_loader",
    "build_train_stream",
    "changes_file",
    "check_datasets",
    "check_files",
    "check_images",
    "check_json",
    "check_labelled_data",
    "check_masks",
    "choose_seed",
    "class_names",
    "class_names_of_file",
    "compare_classes",
    "differing_classes",
    "ensure_dataset",
    "json_of",
    "load_dicts",
    "kept_rng",
    "labelled_split",
    "locate_dataset",
    "needs_bitmasks",
    "plain_json",
    "read_coco",
    "read_image",
    "refuse_existing",
    "register_datasets",
    "register_photo_digits",
    "repair",
    "seed_everything",
    "send_batch",
    "stream_of",
    "warn_of_many_objects",
    "write_coco_json",
]
