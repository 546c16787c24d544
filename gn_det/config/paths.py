"""Paths and addresses of configs: ``~``, gn_det's own folder, gn_det://, detectron2:// and others.

Other addresses are those whose handler a user's code registered with Detectron2's PathManager. The
web is none of them.
"""

import os
from pathlib import Path
from typing import Any

import detectron2
from detectron2.utils.file_io import PathManager

from gn_det.utils import closest

from .errors import ConfigError

__all__ = ["config_folder", "expand_home", "is_handled", "resolve"]

_OWN = ("gn_det", "detectron2")
# Detectron2's PathManager would download these
_WEB = ("http", "https", "ftp", "catalog")


def expand_home(value: Any) -> Any:
    """Return the value of a key or option with each ``~/x`` and ``~user/x`` in it as a full path.

    Args:
        value: A text, a list or tuple of values, or anything else, which stays as it is.

    Raises:
        ConfigError: There is no such user, so that a folder called ``~user`` would be made.
    """
    if isinstance(value, list | tuple):
        return type(value)(expand_home(item) for item in value)
    if not isinstance(value, str) or not value.startswith("~"):
        return value
    expanded = os.path.expanduser(value)
    if expanded == value and "/" in value:
        user = value.partition("/")[0]
        raise ConfigError(f"{value!r}: there is no home folder {user}; give the whole path.")
    return expanded


def is_handled(address: str) -> bool:
    """Return whether an address is for a handler of Detectron2's PathManager, if there is one.

    Args:
        address: An address with or without ``scheme://``.
    """
    scheme, separator, _ = address.partition("://")
    return bool(separator) and scheme not in (*_OWN, *_WEB)


def config_folder() -> Path:
    """Return the folder of the configs: inside the installed package, or beside it in a checkout.

    Raises:
        FileNotFoundError: Neither folder exists.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "base").is_dir():
            return folder
    raise FileNotFoundError(
        f"gn_det's configs are missing: no folder configs/ in {package} (an installed wheel) or "
        f"in {package.parent} (a checkout). Install gn_det again."
    )


def resolve(address: str, folder: Path | None = None) -> Path:
    """Return the path of a config, or of a ``_BASE_``.

    Args:
        address: The address: ``gn_det://NAME.yaml``, ``detectron2://PATH.yaml`` of Detectron2's
            model zoo, one that a handler of PathManager knows, or a path that is absolute, below
            ``~``, or relative to ``folder``.
        folder: The folder of the file that has the address; None for the working directory.

    Raises:
        ConfigError: The address is of the web or has no handler, or leads out of the folder of the
            configs.
        FileNotFoundError: The file does not exist. The message names similar ones.
    """
    scheme, separator, inside = address.partition("://")
    if not separator:
        path = _expand(address) if folder is None else folder / _expand(address)
        if not _exists(path):
            raise FileNotFoundError(f"{_named(address, path)} does not exist.{_closest(path)}")
        return path
    if scheme == "gn_det":
        return _in_zoo(address, inside, config_folder())
    if scheme == "detectron2":
        # without an import of detectron2.model_zoo, which needs pkg_resources: newer setuptools
        # do not have it
        root = Path(detectron2.__file__).parent / "model_zoo" / "configs"
        return _in_zoo(address, inside, root)
    if is_handled(address):
        path = Path(PathManager.get_local_path(address))
        if path != Path(address):  # else there is no handler
            if not path.is_file():
                raise FileNotFoundError(f"{address!r} leads to {str(path)!r}, which is no file.")
            return path
    raise ConfigError(
        f"{address!r} is not read: configs come from files, gn_det://, detectron2://, and "
        "addresses whose handler your code registered with Detectron2's PathManager. Others can "
        "change a file on the web, even between two runs. Save the file, and name it here by its "
        "path."
    )


def _expand(address: str) -> Path:
    try:
        return Path(address).expanduser()
    except RuntimeError as error:  # the home of an unknown user
        raise FileNotFoundError(f"{address!r}: {error}") from None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or has a NUL
        return False


def _named(address: str, path: Path) -> str:
    return f"{address!r}" if str(path) == address else f"{address!r} ({str(path)!r})"


def _in_zoo(address: str, inside: str, root: Path) -> Path:
    parts = inside.replace("\\", "/").split("/")
    if not inside or ".." in parts or "" in parts or ":" in inside or inside.startswith("~"):
        raise ConfigError(
            f"{address!r} leads out of the folder of those configs, {str(root)!r}. Name a file in "
            "it, without '..' and without a leading '/', or give a path without '://'."
        )
    path = root / inside
    if not _exists(path) or not path.is_file():
        scheme = address.partition("://")[0]
        names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.yaml"))
        shown = ", ".join(f"{scheme}://{name}" for name in closest(inside, names, 3, cutoff=0.4))
        hint = f" Closest: {shown}." if shown else f" They are in {str(root)!r}."
        raise FileNotFoundError(f"{address!r}: there is no such config.{hint}")
    return path


def _closest(path: Path) -> str:
    """Return the closest names for a message: of files in the same folder, and of gn_det's own."""
    try:
        names = sorted(p.name for p in path.parent.iterdir() if p.suffix in (".yaml", ".yml"))
    except (OSError, ValueError):
        names = []
    close = closest(path.name, names, 3, cutoff=0.4)
    beside = f" Closest in that folder: {', '.join(close)}." if close else ""
    ours = closest(path.name, sorted(p.name for p in config_folder().glob("*.yaml")))
    return beside + "".join(f" Closest of gn_det's: gn_det://{n}." for n in ours if n not in close)
