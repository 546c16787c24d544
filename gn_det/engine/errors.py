"""How a program ends: a message for a person, the exit status, and the end of ``log.txt``."""

import contextlib
import errno
import logging
import os
import select
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from gn_det.config import ConfigError
from gn_det.engine.debug.nonfinite import NonFiniteError
from gn_det.utils import SaveError

from .run_log import FILE_ONLY, release_warnings, start_messages

__all__ = [
    "EXPECTED",
    "RunStopped",
    "exit_on_error",
    "exit_status",
    "full_disk_is_expected",
    "resume_command",
]

logger = logging.getLogger(__name__)

# a wrong config, option, dataset or file of weights, and what can happen to any run
EXPECTED = (ConfigError, FileNotFoundError, SaveError, NonFiniteError)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
EXIT_BROKEN_PIPE = 141  # as shells have it: 128 + SIGPIPE


class RunStopped(SystemExit):
    """A run stopped as a signal asked for, and has saved what resumes it."""


def exit_status(error: BaseException) -> int:
    """Return 1 for an error of a run that was right to start, and 2 for a wrong start.

    Args:
        error: One of ``EXPECTED``.
    """
    return 1 if isinstance(error, (SaveError, NonFiniteError)) else 2


@contextlib.contextmanager
def exit_on_error(resume_option: bool = False) -> Iterator[None]:
    """End the program with a message, without a stack trace, where an expected error is raised.

    Other errors pass; ``log.txt`` has their stack trace too.

    Args:
        resume_option: Whether the program has the option ``--resume``, for the message of a run
            that was stopped.

    Raises:
        SystemExit: The status of the error, see :func:`exit_status`.
    """
    start_messages()
    try:
        with full_disk_is_expected():
            yield
    except RunStopped as stopped:
        logger.info(_how_to_resume(resume_option))
        raise SystemExit(stopped.code) from None
    except EXPECTED as error:
        logger.error(str(error))
        raise SystemExit(exit_status(error)) from None
    except BrokenPipeError as error:
        if not _reader_is_gone():
            log_unexpected(error)
            raise
        raise SystemExit(EXIT_BROKEN_PIPE) from None
    except Exception as error:
        log_unexpected(error)
        raise
    finally:
        release_warnings()


@contextlib.contextmanager
def full_disk_is_expected() -> Iterator[None]:
    """Turn the error of a disk without room into one that is expected, whoever wrote.

    Raises:
        SaveError: There was no room, or a file was larger than it may be.
    """
    try:
        yield
    except SaveError:
        raise
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        logger.debug("A file could not be written", exc_info=error)
        what = f"{error.filename or 'A file'} could not be written"
        raise SaveError(f"{what}: {error.strerror}. Free some space.") from error


def log_unexpected(error: Exception) -> None:
    """Log the error that ends this process to ``log.txt``; the interpreter shows it itself."""
    what = f"The run ended with {type(error).__name__}: {error}"
    logger.error(what, exc_info=error, extra=FILE_ONLY)


def _reader_is_gone() -> bool:
    """Return whether nobody reads stdout any more, as after ``| head -1``."""
    try:
        place, poll = sys.stdout.fileno(), select.poll()
    except (AttributeError, OSError, ValueError):  # not on Windows; no file
        return False
    poll.register(place, select.POLLOUT)
    gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), place)  # for the flush at the exit
    return gone


def _how_to_resume(resume_option: bool) -> str:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "Resume the run with --resume behind the script of the same torchrun command."
    if resume_option:
        return f"Resume the run with --resume: {resume_command(sys.argv)}"
    return f"Resume the run with the same command: {resume_command(sys.argv, ())}"


def resume_command(argv: Sequence[str], option: Sequence[str] = ("--resume",)) -> str:
    """Return the command line, for a shell, that resumes the run of this one.

    Args:
        argv: The words of this command line, as ``sys.argv`` has them.
        option: The words to add where they are not there: before all others, since a config's keys
            go to the end of the line.
    """
    program, *words = argv
    path = Path(program)
    start = [program]
    if path.name == "__main__.py":
        start = ["python", "-m", path.parent.name]
    elif path.suffix == ".py":
        start = ["python", program]
    elif path.name.removesuffix(".exe") == "gn-det":
        start = ["gn-det"]
    if start[-1] in ("gn-det", "gn_det"):
        start.append(words.pop(0))  # the subcommand
    return shlex.join([*start, *(word for word in option if word not in words), *words])
