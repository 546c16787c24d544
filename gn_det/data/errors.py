"""Errors of datasets: always for a person to read."""

from gn_det.config import ConfigError

__all__ = ["DatasetError"]


class DatasetError(ConfigError):
    """A dataset that is unknown, missing, wrong, or does not fit the config."""
