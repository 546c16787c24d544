"""Reads COCO jsons as UTF-8, as JSON is written, in every locale and with or without its mark.

pycocotools and Detectron2 open them with the encoding of the locale: on a system with another one,
names are misread in silence, or reading fails.
"""

import codecs
import contextlib
import io
import json
import locale
import os
from collections.abc import Iterator
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from detectron2.data import DatasetCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils.file_io import PathManager
from pycocotools.coco import COCO

from gn_det.utils import open_regular

from .errors import DatasetError

__all__ = ["load_dicts", "locale_problem", "plain_json", "read_coco"]

_BLOCK = 1 << 24
_MARK = b"\xef\xbb\xbf"


def read_coco(path: str | os.PathLike) -> COCO:
    """Read a COCO json as UTF-8, as pycocotools' ``COCO(path)`` does in a locale of UTF-8.

    Args:
        path: The path of the json.

    Raises:
        DatasetError: The file cannot be read, is not JSON in UTF-8, or not a dataset in COCO's
            format. The message is one line that begins with the path.
    """
    content = _read(path)
    coco = COCO()
    try:
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}")
        coco.dataset = content
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
    except (LookupError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{path} is not a dataset in COCO's format ({type(error).__name__}: {error}). "
            "gn-det check-dataset shows what is wrong."
        ) from None
    return coco


def load_dicts(path: str, image_root: str, name: str) -> list[dict]:
    """Return Detectron2's dicts of a COCO json, which is read as UTF-8.

    Args:
        path: The path of the json.
        image_root: The path of the folder of images.
        name: The name of the dataset, whose metadata get the classes.
    """
    with plain_json(path) as plain:
        return load_coco_json(plain, image_root, name)


@contextlib.contextmanager
def plain_json(path: str) -> Iterator[str]:
    """Give the path of a json that every reader reads right: the file, or a copy in ASCII.

    Args:
        path: The path of a COCO json.

    Raises:
        DatasetError: The file cannot be read, or is not JSON in UTF-8.
    """
    path = PathManager.get_local_path(path)
    if _is_plain(path):
        yield path
        return
    content = _read(path)
    with TemporaryDirectory() as folder:
        copy = os.path.join(folder, os.path.basename(path))
        with open(copy, "w", encoding="ascii") as file:
            json.dump(content, file)
        del content
        yield copy


def locale_problem(name: str, path: str) -> str | None:
    """Return why a registered loader would misread a json; None where it reads it right.

    Args:
        name: The name of a registered dataset.
        path: The path of its json.
    """
    load = DatasetCatalog[name]
    is_ours = getattr(load, "func", load).__module__.startswith("gn_det.")  # by load_dicts
    if is_ours or _is_plain(path):
        return None
    encoding = locale.getpreferredencoding(False)
    return (
        f"its json {path} has letters, or a byte order mark, that Detectron2's own reader does not "
        f"read in this system's encoding ({encoding}). Name the dataset in DATASETS.REGISTER, "
        "which reads UTF-8; or set the environment variable PYTHONUTF8 to 1, and write the json "
        "without a byte order mark."
    )


def _is_plain(path: str) -> bool:
    """Return whether a file is read right in this locale: ASCII, or UTF-8 where that is its own."""
    utf8 = codecs.lookup(locale.getpreferredencoding(False)).name == "utf-8"
    try:
        with open_regular(path) as file:
            if file.read(3) == _MARK:
                return False
            if utf8:
                return True
            file.seek(0)
            return all(block.isascii() for block in iter(partial(file.read, _BLOCK), b""))
    except OSError:
        return True  # its reader says what is wrong


def _read(path: str | os.PathLike) -> Any:
    try:
        with open_regular(path) as file:
            return json.loads(file.read().decode("utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise DatasetError(
            f"{path} is not text in UTF-8, so not JSON. Save it as UTF-8. Where it is UTF-16, "
            "gn-det check-dataset --fix OUT.json writes a copy."
        ) from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path} is not a dataset in COCO's format: it is not JSON ({error})."
        ) from None
