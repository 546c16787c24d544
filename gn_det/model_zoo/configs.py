"""Configs by name."""

import difflib

from detectron2.config import LazyConfig
from omegaconf import DictConfig

from gn_det.config import CfgNode, config_folder, get_cfg

from .lazy import lazy_config

__all__ = ["get_config", "get_config_file", "list_configs"]


def list_configs() -> list[str]:
    """Return the names of all configs, such as ``"mask_rcnn_R50_gn_all.yaml"``, sorted."""
    return sorted(path.name for path in config_folder().glob("*.yaml"))


def get_config_file(name: str) -> str:
    """Return the path of the config called ``name``.

    Args:
        name: as :func:`list_configs` gives it; ``.yaml`` may be left out. Or one of the Python
            configs that have a file.

    Raises:
        FileNotFoundError: there is no such config; the message names the closest ones.
    """
    filename = name if name.endswith((".yaml", ".py")) else f"{name}.yaml"
    names = list_configs() + sorted(path.name for path in config_folder().glob("*.py"))
    if filename not in names:
        close = difflib.get_close_matches(filename, names, n=3) or names
        raise FileNotFoundError(f"gn_det has no config {name!r}. Closest: {', '.join(close)}.")
    return str(config_folder() / filename)


def get_config(name: str) -> CfgNode | DictConfig:
    """Return the finished config called ``name``; see :func:`get_config_file`.

    A name that ends in ``.py`` gives a LazyConfig: of that file, or of the YAML of the same name,
    see :func:`gn_det.model_zoo.lazy_config`. A file of gn_det's own runs its code.

    Raises:
        FileNotFoundError: there is no such config.
        gn_det.config.ConfigError: the YAML has no lazy form.
    """
    if name.endswith(".py"):
        yaml = name.removesuffix(".py") + ".yaml"
        if (config_folder() / name).is_file() or yaml not in list_configs():
            return LazyConfig.load(get_config_file(name))
        return lazy_config(get_config(yaml))
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(name))
    return cfg
