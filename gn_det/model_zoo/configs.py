"""Configs by name."""

import os

from detectron2.config import LazyConfig
from omegaconf import DictConfig

from gn_det.config import CfgNode, ConfigError, config_folder, get_cfg
from gn_det.utils import closest

from .lazy import lazy_config
from .published import published, zoo

__all__ = ["get_config", "get_config_file", "list_configs"]


def list_configs() -> list[str]:
    """Return the names of all configs, such as ``"mask_rcnn_R50_gn_all.yaml"``, sorted."""
    return sorted(path.name for path in config_folder().glob("*.yaml"))


def get_config_file(name: str) -> str:
    """Return the path of the config called ``name``.

    Args:
        name: A name of :func:`list_configs`, with or without ``.yaml``, or the name of a Python
            config file.

    Raises:
        FileNotFoundError: There is no such config. The message names the closest ones.
    """
    filename = name if name.endswith((".yaml", ".py")) else f"{name}.yaml"
    names = list_configs() + sorted(path.name for path in config_folder().glob("*.py"))
    if filename not in names:
        close = closest(filename, names, count=3) or names
        raise FileNotFoundError(f"gn_det has no config {name!r}. Closest: {', '.join(close)}.")
    return str(config_folder() / filename)


def get_config(name: str, trained: bool = False) -> CfgNode | DictConfig:
    """Return the complete config called ``name``.

    A name that ends in ``.py`` gives a LazyConfig: of that file, or of the YAML of the same name,
    see :func:`gn_det.model_zoo.lazy_config`. A file of gn_det's own runs its code.

    Args:
        name: A name as for :func:`get_config_file`.
        trained: Whether ``MODEL.WEIGHTS`` becomes the published model of this config, in place of
            the pre-trained backbone. For YAML configs only.

    Raises:
        FileNotFoundError: There is no such config.
        gn_det.config.ConfigError: The YAML has no lazy form, or no model of it was published.
    """
    if name.endswith(".py"):
        if trained:
            raise ConfigError(f"{name}: trained weights belong to the YAML config of that name.")
        yaml = name.removesuffix(".py") + ".yaml"
        if (config_folder() / name).is_file() or yaml not in list_configs():
            return LazyConfig.load(get_config_file(name))
        return lazy_config(get_config(yaml))
    cfg = get_cfg()
    path = get_config_file(name)
    cfg.merge_from_file(path)
    if trained:
        entry = published(os.path.basename(path))
        if entry is None or entry.weights is None:
            have = ", ".join(e.name for e in zoo().values() if e.weights)
            raise ConfigError(f"No model of {name} was published. There are models of: {have}.")
        cfg.MODEL.WEIGHTS = entry.weights
    return cfg
