"""The keys that gn_det adds to Detectron2's config, and checks of a finished config."""

from .batches import images_per_micro_batch
from .cfg_node import CfgNode, get_cfg
from .checks import check_config, find_problems, solver_problems
from .defaults import add_gn_config
from .errors import ConfigError, UnknownKeyError
from .known_weights import PretrainSpec, find_published_spec
from .paths import config_folder
from .weights import Problem, check_weights, pretrain_spec_from_cfg

__all__ = [
    "CfgNode",
    "ConfigError",
    "PretrainSpec",
    "Problem",
    "UnknownKeyError",
    "add_gn_config",
    "check_config",
    "check_weights",
    "config_folder",
    "find_problems",
    "find_published_spec",
    "get_cfg",
    "images_per_micro_batch",
    "pretrain_spec_from_cfg",
    "solver_problems",
]
