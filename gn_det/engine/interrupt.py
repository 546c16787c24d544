"""Ctrl-C (SIGINT): a command ends with one line and status 130, without a stack trace."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from detectron2.utils import comm

from gn_det.engine.hooks.progress import in_terminal

from .run_log import FILE_ONLY

__all__ = ["EXIT_INTERRUPTED", "announce_stop", "exit_on_interrupt", "leave_at_once", "postponed"]

logger = logging.getLogger(__name__)

EXIT_INTERRUPTED = 130  # as shells have it: 128 + SIGINT
STOPPED = "Stopped by Ctrl-C."


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """End the program at Ctrl-C inside the block; at a second one without any cleaning up.

    Processes that are forked inside, such as those that load data, leave it to this one. Where
    SIGINT is ignored, it stays so.

    Raises:
        SystemExit: With :data:`EXIT_INTERRUPTED`.
    """
    here, before = os.getpid(), signal.getsignal(signal.SIGINT)

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() == here and not postponed(number, frame):
            signal.signal(signal.SIGINT, leave_at_once)
            # objects that are half made complain when they are destroyed
            sys.unraisablehook = lambda _: None
            raise KeyboardInterrupt

    handled = threading.current_thread() is threading.main_thread() and before != signal.SIG_IGN
    if handled:
        signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    except KeyboardInterrupt:
        logger.info(STOPPED, extra=FILE_ONLY)
        if comm.is_main_process():
            print(f"{chr(10) * in_terminal()}{STOPPED}", file=sys.stderr)  # below the ^C
        raise SystemExit(EXIT_INTERRUPTED) from None
    finally:
        if handled:
            signal.signal(signal.SIGINT, before)


def postponed(number: int, frame: FrameType | None) -> bool:
    """Return whether a signal came while this process starts another one; it then comes again.

    Python swallows what a handler raises there. The other process takes some milliseconds.

    Args:
        number: The number of the signal.
        frame: The frame that the handler was given.
    """
    while frame is not None:
        if frame.f_globals.get("__name__") == "multiprocessing.popen_fork":
            threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
            return True
        frame = frame.f_back
    return False


def announce_stop() -> None:
    """Say, in a handler of signals, that a run will stop once it has saved."""
    # no logging, and no print: both may have been interrupted at their work
    os.write(2, b"\nStopping after this iteration. Ctrl-C again stops at once.\n")


def leave_at_once(number: int = 0, frame: FrameType | None = None) -> NoReturn:
    """End this process and those that it started; a handler of signals."""
    for child in multiprocessing.active_children():
        child.kill()
    os.write(2, b"\nStopped at once.\n")
    os._exit(EXIT_INTERRUPTED)
