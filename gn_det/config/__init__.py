"""The keys that gn_det adds to Detectron2's config, and what they may hold. Knows no network."""

from .batches import images_per_micro_batch
from .cfg_node import CfgNode, get_cfg, given_keys
from .defaults import add_gn_config, require_gn_config
from .detection_limit import max_detections
from .errors import ConfigError, Problem, UnknownKeyError
from .key_rules import allow_value
from .merge import flatten
from .paths import config_folder

__all__ = [
    "CfgNode",
    "ConfigError",
    "Problem",
    "UnknownKeyError",
    "add_gn_config",
    "allow_value",
    "config_folder",
    "flatten",
    "get_cfg",
    "given_keys",
    "images_per_micro_batch",
    "max_detections",
    "require_gn_config",
]
