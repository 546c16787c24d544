"""Configs by name."""

import os

from detectron2.config import LazyConfig
from omegaconf import DictConfig

from gn_det.config import CfgNode, ConfigError, config_folder, get_cfg
from gn_det.utils import closest

from .published import published, zoo

__all__ = ["get_config", "get_config_file", "list_configs"]


def list_configs() -> list[str]:
    """Return the names of all configs, such as ``"mask_rcnn_R50_gn_all.yaml"``, sorted."""
    return sorted(path.name for path in config_folder().glob("*.yaml"))


def get_config_file(name: str) -> str:
    """Return the path of the config called ``name``.

    Args:
        name: A name of :func:`list_configs`, with or without ``.yaml``, or the path of a Python
            config in the folder of configs, such as ``"mask_rcnn_R50_gn_all.py"`` or
            ``"common/models/mask_rcnn_fpn.py"``.

    Raises:
        FileNotFoundError: There is no such config. The message names the closest ones.
    """
    filename = name if name.endswith((".yaml", ".py")) else f"{name}.yaml"
    if filename not in [*list_configs(), *_python_configs("**/")]:
        raise FileNotFoundError(_there_is_none(name, filename))
    return str(config_folder() / filename)


def _python_configs(folders: str = "") -> list[str]:
    root = config_folder()
    return sorted(path.relative_to(root).as_posix() for path in root.glob(f"{folders}*.py"))


def _there_is_none(name: str, filename: str) -> str:
    if filename.removesuffix(".py") + ".yaml" in list_configs():
        return (
            f"gn_det has no file {filename}: this config is a YAML alone. Train the YAML, or write "
            "a Python config that inherits one of these and changes what is different "
            f"(docs/configs.md shows how): {', '.join(_python_configs())}."
        )
    names = [*list_configs(), *_python_configs()]
    close = closest(filename, names, count=3) or names
    return f"gn_det has no config {name!r}. Closest: {', '.join(close)}."


def get_config(name: str, trained: bool = False) -> CfgNode | DictConfig:
    """Return the complete config called ``name``.

    A name that ends in ``.py`` gives a LazyConfig. This runs the code of that file, which is
    gn_det's own.

    Args:
        name: A name as for :func:`get_config_file`.
        trained: Whether ``MODEL.WEIGHTS`` becomes the published model of this config, in place of
            the pre-trained backbone. For YAML configs only.

    Raises:
        FileNotFoundError: There is no such config.
        gn_det.config.ConfigError: No model of this config was published.
    """
    if name.endswith(".py"):
        if trained:
            raise ConfigError(f"{name}: trained weights belong to the YAML config of that name.")
        return LazyConfig.load(get_config_file(name))
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
