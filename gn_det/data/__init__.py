"""The embedded dataset, and checks of the datasets that a config names."""

from .builtin import ensure_dataset, register_photo_digits
from .checks import DatasetError, check_datasets, check_images
from .photo_digits import build_photo_digits

__all__ = [
    "DatasetError",
    "build_photo_digits",
    "check_datasets",
    "check_images",
    "ensure_dataset",
    "register_photo_digits",
]
