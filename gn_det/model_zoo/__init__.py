"""Configs and models by name, and their published numbers."""

from .configs import get_config, get_config_file, list_configs
from .models import get
from .published import Entry, published, zoo

__all__ = [
    "Entry",
    "get",
    "get_config",
    "get_config_file",
    "list_configs",
    "published",
    "zoo",
]
