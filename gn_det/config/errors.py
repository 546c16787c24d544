"""Errors of a config: always for a person to read."""

__all__ = ["ConfigError", "UnknownKeyError"]


class ConfigError(ValueError):
    """A config cannot work, or would silently do something else than it says."""


class UnknownKeyError(ConfigError, KeyError):
    """A key does not exist. This is a KeyError too, because Detectron2 raises one.

    Args:
        message: The message for a person.
        key: The name of the key, such as ``"SOLVER.BASE_RL"``.
    """

    def __init__(self, message: str, key: str = ""):
        super().__init__(message, key)

    @property
    def key(self) -> str:
        """The key that does not exist."""
        return self.args[1]

    def __str__(self) -> str:
        """Return the plain message. KeyError would show its repr, in quotes on one line."""
        return str(self.args[0])
