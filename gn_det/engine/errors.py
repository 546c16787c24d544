"""Which errors are for a person to read, and the exit status of a program that ends with one."""

import contextlib
import sys
from collections.abc import Iterator

from gn_det.config import ConfigError
from gn_det.engine.debug.nonfinite import NonFiniteError
from gn_det.utils import SaveError

__all__ = ["EXPECTED", "exit_on_error", "exit_status"]

# a wrong config, option, dataset or file of weights, and what can happen to any run
EXPECTED = (ConfigError, FileNotFoundError, SaveError, NonFiniteError)


def exit_status(error: BaseException) -> int:
    """Return 1 for an error of a run that was right to start, and 2 for a wrong start.

    Args:
        error: One of ``EXPECTED``.
    """
    return 1 if isinstance(error, (SaveError, NonFiniteError)) else 2


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """End the program with a message, without a stack trace, where an expected error is raised.

    Raises:
        SystemExit: The status of the error, see :func:`exit_status`.
    """
    try:
        yield
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(exit_status(error)) from None
