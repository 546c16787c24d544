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

__all__ = ["EXIT_INTERRUPTED", "exit_on_interrupt", "leave_at_once"]

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
        if os.getpid() == here:
            signal.signal(signal.SIGINT, leave_at_once)
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


def leave_at_once(number: int = 0, frame: FrameType | None = None) -> NoReturn:
    """End this process and those that it started; a handler of signals."""
    for child in multiprocessing.active_children():
        child.kill()
    os.write(2, b"\nStopped at once.\n")
    os._exit(EXIT_INTERRUPTED)
