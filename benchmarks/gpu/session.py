"""Sections run one after the other, in a process of their own, each with a limit of time.

A section may raise, hang, or spoil its process: after an illegal access nothing works on the GPU
there, and after a kernel that could not be compiled norms run without kernels. What it had found is
kept, and the next section goes on, in a new process where need be.
"""

import faulthandler
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from gn_det.layers import kernels
from gn_det.utils import atomic_write

from .device import DEVICE

__all__ = ["LOG", "Section", "Worker", "read_rows"]

LOG = "log.txt"
GRACE = 20.0  # seconds after its limit at which a section is stopped
STOPPING = 10.0  # seconds for the system to end a process: one that hangs in a driver may stay
ERROR_LENGTH = 3000  # letters of a traceback that are kept


@dataclass
class Section:
    """What a section works with, and where its rows go.

    Attributes:
        path: The JSON file of the rows.
        dry: Whether sizes are tiny.
        until: The end of its time, as :func:`time.monotonic` has it in all processes.
        rows: What was found, by name.
    """

    path: Path
    dry: bool
    until: float
    rows: dict[str, Any] = field(default_factory=dict)

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.until - time.monotonic()

    def add(self, name: str, row: Any) -> None:
        """Add a row, and write all rows to the file, atomically."""
        self.rows[name] = row
        text = json.dumps(self.rows)
        atomic_write(self.path, lambda file: file.write(text.encode()))

    def has_time(self, name: str, least: float) -> bool:
        """Return whether so many seconds are left. If not, the row ``name`` says so."""
        if self.left() >= least:
            return True
        self.add(name, {"error": f"not run: {self.left():.0f} s were left"})
        return False

    @contextmanager
    def row(self, name: str) -> Iterator[dict[str, Any]]:
        """Give a new row to fill. It is added in the end; an error is written into it.

        Args:
            name: The name of the row.
        """
        row: dict[str, Any] = {}
        with self.guard(name):
            try:
                yield row
            finally:
                self.add(name, row)

    @contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """Write an error within the block into the row ``name``, and go on after the block."""
        try:
            yield
        except Exception:
            error = traceback.format_exc()[-ERROR_LENGTH:]
            self.add(name, {**self.rows.get(name, {}), "error": error})


def read_rows(path: Path) -> dict[str, Any]:
    """Return the rows in a section's file, and remove it; {} without a file."""
    if not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    return rows


class Worker:
    """A process that runs sections. What it prints goes to a file.

    Args:
        log: The path of this file.
    """

    def __init__(self, log: Path):
        context = get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, log))
        self._process.start()
        there.close()

    def run(self, function: Callable[[Section], None], section: Section) -> str:
        """Run ``function(section)`` and return what went wrong; "" if nothing did.

        Args:
            function: A function that can be imported by its name.
            section: The section. Its rows are in its file.
        """
        try:
            self._here.send((function, section))
            if self._here.poll(max(0.0, section.left()) + GRACE):
                return self._here.recv()
            error = f"stopped {GRACE:.0f} s after its limit; {LOG} shows where it was"
        except (EOFError, OSError):
            self._process.join(STOPPING)
            error = f"its process died with exit code {self._process.exitcode}"
        self.stop()
        return error

    def alive(self) -> bool:
        """Return whether the process can run another section."""
        return self._process.is_alive()

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join(STOPPING)


def _serve(sections: Connection, log: Path) -> None:
    with open(log, "a", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    had_kernels = not _why_no_kernels()
    while True:
        try:
            function, section = sections.recv()
        except EOFError:  # the session is over
            return
        faulthandler.dump_traceback_later(max(0.0, section.left()) + GRACE / 2)
        try:
            function(section)
            error = ""
        except Exception:
            error = traceback.format_exc()[-ERROR_LENGTH:]
        faulthandler.cancel_dump_traceback_later()
        spoiled = _spoiled(had_kernels)
        sections.send(f"{error}\n{spoiled}".strip())
        if spoiled:
            os._exit(1)  # the usual end would wait for the GPU


def _spoiled(had_kernels: bool) -> str:
    """Return why no other section may run in this process; "" if it may."""
    if why := _gpu_is_lost():
        return f"The GPU is lost to its process: {why}"
    if had_kernels and (why := _why_no_kernels()):
        return f"The kernels were turned off in its process: {why}"
    return ""


def _why_no_kernels() -> str:
    return kernels.why_not(torch.empty(2, 32, 8, 8, device=DEVICE))


def _gpu_is_lost() -> str:
    """Return the error of a GPU that does not answer this process any more; "" if it does."""
    gc.collect()
    if torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            return str(error).partition("\n")[0]
    return ""
