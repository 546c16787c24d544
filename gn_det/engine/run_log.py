"""What a command says: on the screen, and with all details in the ``log.txt`` of a run.

All messages go through Python's ``logging``. The screen shows those of gn_det, and the warnings of
all; Detectron2's other messages, and gn_det's at the level DEBUG, are in ``log.txt`` alone unless
``--verbose`` is given. What was said before the folder of a run was known is in ``log.txt`` too.
"""

import io
import logging
import logging.handlers
import os
import re
import sys
import warnings
from pathlib import Path
from typing import TextIO

from detectron2.utils import comm
from tqdm import tqdm

from gn_det.engine.hooks import progress

__all__ = ["FILE_ONLY", "hold_warnings", "open_log_file", "release_warnings", "start_messages"]

# ``logger.error(..., extra=FILE_ONLY)``: the screen shows it in another way
FILE_ONLY = {"file_only": True}
LIBRARIES = ("detectron2", "fvcore")
# what a person reads where there is no bar: the lines of losses, and those of an evaluation, which
# come every 5 seconds, at most every INTERVAL seconds
LOSSES, EVALUATION, INTERVAL = "detectron2.utils.events", "detectron2.evaluation.evaluator", 30.0
DETAILED = logging.Formatter(
    "[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S"
)
# of any environment: a virtual one may see the packages of the system, or of the user
INSTALLED = re.compile(r"[/\\](site|dist)-packages[/\\]")
OURS = str(Path(__file__).parents[1])


def start_messages() -> None:
    """Show the messages of this process on the screen. The first call counts.

    What is printed can always be printed: letters that the terminal does not have are escaped.
    Lines come in the order in which they were printed, in a file too.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    if _handlers(_Screen):
        return
    root = logging.getLogger()
    root.addHandler(_Screen())
    root.addHandler(_Early(capacity=1000, flushLevel=logging.CRITICAL + 1))
    for name in ("gn_det", "py.warnings", *LIBRARIES):
        logging.getLogger(name).setLevel(logging.DEBUG)
    warnings.showwarning = _log_python_warning


def open_log_file(folder: str, *, verbose: bool = False) -> None:
    """Write all messages of this process to ``FOLDER/log.txt``, with those from before.

    Processes other than the main one write ``log.txt.rank1`` and so on.

    Args:
        folder: The folder of the run.
        verbose: Whether the screen shows everything as well.
    """
    start_messages()
    root = logging.getLogger()
    for screen in _handlers(_Screen):
        screen.verbose = verbose
    for name in LIBRARIES:
        _hand_on(logging.getLogger(name))
    for before in _handlers(_LogFile):
        root.removeHandler(before)
        before.close()
    os.makedirs(folder, exist_ok=True)
    rank = comm.get_rank()
    file = _LogFile(os.path.join(folder, f"log.txt.rank{rank}" if rank else "log.txt"))
    for early in _handlers(_Early):
        early.setTarget(file)
        root.removeHandler(early)
        early.close()
    root.addHandler(file)


def hold_warnings() -> None:
    """Hold warnings back from the screen until :func:`release_warnings`, where they are seen."""
    for screen in _handlers(_Screen):
        screen.held = screen.held or []


def release_warnings() -> None:
    """Show the warnings that were held back, and further ones at once."""
    for screen in _handlers(_Screen):
        held, screen.held = screen.held or [], None
        for record in held:
            screen.emit(record)


class _Quiet(logging.Handler):
    """A handler whose place is gone (a closed pipe, a full disk): the run goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class _Screen(_Quiet):
    """Writes above a progress bar: warnings to stderr, the rest to stdout."""

    def __init__(self) -> None:
        super().__init__()
        self.verbose = False
        self.held: list[logging.LogRecord] | None = None
        self._evaluation_line = 0.0  # the time of the last one

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "file_only", False):
            return False
        if record.levelno >= logging.WARNING:
            # an exception of the training loop is raised again, and is shown where it ends the run
            again = record.name == "detectron2.engine.train_loop" and record.exc_info
            return not again and (comm.is_main_process() or record.levelno >= logging.ERROR)
        if not comm.is_main_process():
            return False
        if record.name in (LOSSES, EVALUATION) and progress.in_terminal():
            return False
        if record.name == EVALUATION and not self.verbose:
            due = record.created - self._evaluation_line >= INTERVAL
            self._evaluation_line = record.created if due else self._evaluation_line
            return due
        if record.name == LOSSES:
            return True
        of_library = record.name.partition(".")[0] in (*LIBRARIES, "py")
        return self.verbose or (not of_library and record.levelno >= logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            release_warnings()
        elif record.levelno == logging.WARNING and self.held is not None:
            self.held.append(record)
            return
        stream: TextIO | None = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        if stream is None:  # a program that was started without one
            return
        try:
            tqdm.write(self.format(record), file=stream)
            stream.flush()
        except Exception:
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        if self.verbose and record.levelno < logging.WARNING:
            return _plain(DETAILED.format(record))
        prefix = {logging.WARNING: "warning: ", logging.ERROR: "error: "}.get(record.levelno, "")
        return _plain(prefix + super().format(record).strip())


class _LogFile(_Quiet, logging.FileHandler):
    """``log.txt``: everything, with time and origin; an exception once."""

    def __init__(self, path: str):
        logging.FileHandler.__init__(self, path, encoding="utf-8", errors="backslashreplace")
        self._logged: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or error is not self._logged:
            self._logged = error or self._logged
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        return _plain(DETAILED.format(record))


class _Early(logging.handlers.MemoryHandler):
    """Keeps what is said until there is a ``log.txt``."""


def _handlers(kind: type) -> list:
    return [handler for handler in logging.getLogger().handlers if type(handler) is kind]


def _hand_on(logger: logging.Logger) -> None:
    """Undo what Detectron2's ``setup_logger`` has done: its messages would stand twice."""
    logger.propagate = True
    for handler in logger.handlers[:]:
        if type(handler) is logging.StreamHandler and handler.stream is sys.stdout:
            logger.removeHandler(handler)


def _plain(text: str) -> str:
    """Return a text without the colours that Detectron2 puts into its tables."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _log_python_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Log a warning of the module ``warnings``; those of libraries go to ``log.txt`` alone."""
    of_library = INSTALLED.search(filename) and not filename.startswith(OURS)
    logging.getLogger("py.warnings").log(
        logging.INFO if of_library else logging.WARNING,
        f"{filename}:{lineno}: {category.__name__}: {message}",
    )
