"""The keys that gn_det adds to Detectron2's config, and checks of a finished config."""

from .batches import images_per_pass
from .cfg_node import CfgNode, get_cfg
from .checks import check_config, find_problems, solver_problems
from .defaults import add_gn_config
from .errors import ConfigError, UnknownKeyError
from .known_weights import KnownWeights, find_known_weights
from .paths import config_folder
from .weights import Problem, check_weights, describe_weights

__all__ = [
    "CfgNode",
    "ConfigError",
    "KnownWeights",
    "Problem",
    "UnknownKeyError",
    "add_gn_config",
    "check_config",
    "check_weights",
    "config_folder",
    "describe_weights",
    "find_known_weights",
    "find_problems",
    "get_cfg",
    "images_per_pass",
    "solver_problems",
]
