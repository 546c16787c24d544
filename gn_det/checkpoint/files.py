"""From the value of MODEL.WEIGHTS to a file on this machine, whose hash is checked.

Paths and URLs are Detectron2's: its PathManager knows catalog://, detectron2://, https:// and what
a user's code registered a handler for. It downloads to a temporary file, compares the length, and
only then moves it into the cache.
"""

import contextlib
import hashlib
import os
import re
from typing import Any
from urllib.parse import parse_qs, urldefrag

from detectron2.utils.file_io import PathManager

from gn_det.config.paths import expand_home
from gn_det.utils import shorten

from .errors import WeightsError

__all__ = ["is_url", "local_file", "parse_path", "remove_copy"]

# resnet50-0676ba61.pth: the first digits of the file's SHA-256, as PyTorch Hub and OpenMMLab name
# their files. Detectron2's model_final_f10217.pkl has no documented digest in its name.
_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pt|pkl|pyth|tar|pth\.tar)$")


def is_url(path: str) -> bool:
    """Return whether a path is a URL, whose file has to be downloaded."""
    return "://" in path


def remove_copy(path: str, local: str) -> bool:
    """Remove a downloaded file from the cache.

    The file of a URL handler of the user's own stays: it may be the original.

    Args:
        path: The path or URL that was asked for.
        local: The path of the local file.

    Returns:
        Whether it was a download.
    """
    if not path.startswith(("http://", "https://", "detectron2://", "catalog://")):
        return False
    with contextlib.suppress(FileNotFoundError):  # by another process of the same run
        os.unlink(local)
    return True


def parse_path(path: str) -> tuple[str, str, bool]:
    """Split the value of ``MODEL.WEIGHTS`` into its parts.

    Args:
        path: A path, possibly below ``~``, or a URL; possibly with ``#sha256=...`` or
            ``?matching_heuristics=True`` at its end.

    Returns:
        The plain path or URL; the SHA-256 in hexadecimal digits, or ""; whether Detectron2's
        matching heuristics are asked for.

    Raises:
        WeightsError: ``#`` is followed by something else than a SHA-256.
        ConfigError: There is no such user for ``~user``.
    """
    path, digest = expand_home(path), ""
    if "#sha256=" in path or (is_url(path) and "#" in path):
        path, fragment = urldefrag(path)
        digest = fragment.removeprefix("sha256=").lower()
        if not fragment.startswith("sha256=") or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise WeightsError(f"{path}#{fragment}: after # belongs sha256= and 64 hex digits.")
    plain, mark, query = path.rpartition("?")
    if mark and set(parse_qs(query)) == {"matching_heuristics"}:
        return plain, digest, parse_qs(query)["matching_heuristics"] == ["True"]
    return path, digest, False


def local_file(path: str, digest: str = "", paths: Any = PathManager) -> str:
    """Return the path of the local file. A URL is downloaded once and stays in the cache.

    Hashes in the names of local files are not checked.

    Args:
        path: A path, or a URL that Detectron2's PathManager knows.
        digest: The SHA-256 that the file must have. Without one, a download is compared with the
            hash in its name, where it has one.
        paths: The path manager that knows the handlers; default: Detectron2's.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: The file cannot be downloaded, or has another hash; a download is removed
            then.
    """
    local = _download(path, paths)
    if not os.path.isfile(local):
        if is_url(path) and local == path:
            scheme = path.partition("://")[0]
            raise WeightsError(
                f"{path}: no handler of {scheme}:// is registered with Detectron2's PathManager. "
                "Register one in your code, or save the file and give its path."
            )
        if is_url(path):
            raise WeightsError(f"{path}: what it leads to, {local}, is no file.")
        what = "is a folder, and no file" if os.path.isdir(local) else "does not exist"
        raise FileNotFoundError(f"Weights file '{path}' {what}.")
    if is_url(path):
        in_name = _IN_NAME.search(path)
        digest = digest or (in_name[1] if in_name else "")
    if digest:
        have = _sha256(local)
        if not have.startswith(digest):
            removed = remove_copy(path, local)
            raise WeightsError(
                f"{path}: it is damaged or another file: its SHA-256 starts with "
                f"{have[: len(digest)]}, not {digest}."
                + (" The copy was removed; try again." if removed else "")
            )
    return local


def _download(url: str, paths: Any) -> str:
    try:
        local = paths.get_local_path(url)
    except OSError as error:  # of urllib: no connection, HTTP status, fewer bytes than announced
        raise WeightsError(f"{url}: it cannot be downloaded ({error}).") from None
    except (KeyError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{url}: there is no such entry ({shorten(error)}).") from None
    except Exception as error:  # noqa: BLE001  of a handler of the user's own
        raise WeightsError(
            f"{url}: its handler raised {type(error).__name__}: {shorten(error)}."
        ) from error
    return local


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
