"""What is wrong with a config: errors and problems, always for a person to read."""

from dataclasses import dataclass

__all__ = ["ConfigError", "Problem", "UnknownKeyError"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a config.

    Attributes:
        fatal: Whether the config is refused; otherwise this is a warning.
        message: The keys, the cause and the remedy, in one line.
    """

    fatal: bool
    message: str


class ConfigError(ValueError):
    """A config cannot work, or would silently do something else than it says.

    Args:
        message: The message for a person.
        key: The name of the key that the error is about, such as ``"SOLVER.BASE_LR"``; "" where
            there is none.

    Attributes:
        key: See above.
    """

    def __init__(self, message: str, key: str = ""):
        super().__init__(message)
        self.key = key

    def __str__(self) -> str:
        """Return the plain message. KeyError would show its repr, in quotes on one line."""
        return str(self.args[0])


class UnknownKeyError(ConfigError, KeyError):
    """A key does not exist. This is a KeyError too, because Detectron2 raises one."""
