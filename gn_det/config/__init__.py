"""The keys that gn_det adds to Detectron2's config, and checks of a finished config."""

from .cfg_node import CfgNode, get_cfg
from .checks import Problem, check_config, find_problems
from .defaults import add_gn_config
from .errors import ConfigError, UnknownKeyError

__all__ = [
    "CfgNode",
    "ConfigError",
    "Problem",
    "UnknownKeyError",
    "add_gn_config",
    "check_config",
    "find_problems",
    "get_cfg",
]
