"""The error of a dataset, written for a person to read."""

from gn_det.config import ConfigError

__all__ = ["DatasetError"]


class DatasetError(ConfigError):
    """A dataset is unknown, missing or wrong, or does not fit the config."""
