"""The error of weights, whose message is for a person to read."""

from gn_det.config import ConfigError

__all__ = ["WeightsError"]


class WeightsError(ConfigError):
    """A file of weights that is unsafe, damaged, not of this format, or of another network."""
