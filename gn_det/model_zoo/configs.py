"""Where the config files are, and configs by name."""

import difflib
from pathlib import Path

import gn_det
from gn_det.config import CfgNode, get_cfg

__all__ = ["config_folder", "get_config", "get_config_file", "list_configs"]


def config_folder() -> Path:
    """Return the folder of the configs: inside the installed package, or beside it in a checkout.

    Raises:
        FileNotFoundError: neither is there.
    """
    package = Path(gn_det.__file__).parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "base").is_dir():
            return folder
    raise FileNotFoundError(
        f"gn_det's configs are missing: no folder configs/ in {package} (an installed wheel) or "
        f"in {package.parent} (a checkout). Install gn_det again."
    )


def list_configs() -> list[str]:
    """Return the names of all configs, such as ``"mask_rcnn_R50_gn_all.yaml"``, sorted."""
    return sorted(path.name for path in config_folder().glob("*.yaml"))


def get_config_file(name: str) -> str:
    """Return the path of the config called ``name``.

    Args:
        name: as :func:`list_configs` gives it; ``.yaml`` may be left out.

    Raises:
        FileNotFoundError: there is no such config; the message names the closest ones.
    """
    filename = name if name.endswith(".yaml") else f"{name}.yaml"
    if filename not in (names := list_configs()):
        close = difflib.get_close_matches(filename, names, n=3) or names
        raise FileNotFoundError(f"gn_det has no config {name!r}. Closest: {', '.join(close)}.")
    return str(config_folder() / filename)


def get_config(name: str) -> CfgNode:
    """Return the finished config called ``name``; see :func:`get_config_file`."""
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(name))
    return cfg
