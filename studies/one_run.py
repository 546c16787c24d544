"""One run of a study in its own process.

``FOLDER/run.json`` describes the run. ``FOLDER/result.json`` is written at its end.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from benchmarks.records import code_version, describe
from benchmarks.whole_run import RUN, pretrain_or_resume, train_or_resume
from gn_det.engine import NonFiniteError, has_checkpoint
from gn_det.utils import atomic_write

__all__ = ["CONSOLE", "RESULT", "run_here", "run_process"]

RESULT, CONSOLE, SECONDS = "result.json", "console.txt", "seconds.txt"
TRAIN = {"pretrain": pretrain_or_resume, "detection": train_or_resume}


def run_process(folder: str) -> None:
    """Run a training with its output in ``console.txt``. This is the target of a process.

    The process stops on SIGTERM and when its parent process ends, but not on Ctrl-C.

    Args:
        folder: The folder of the run.
    """
    os.setsid()  # Ctrl-C goes to the parent process
    with open(os.path.join(folder, CONSOLE), "a", encoding="utf-8") as console:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(console.fileno(), stream.fileno())
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        run_here(Path(folder))
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        raise SystemExit(1) from None


def _stop_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a child process
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _seconds(clock: Path) -> float:
    try:
        return float(clock.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no file, or an incomplete one
        return 0.0


def run_here(folder: Path) -> None:
    """Train to the end and write the result: "done", or "diverged" with the iteration.

    Args:
        folder: The folder of the run.
    """
    spec = json.loads((folder / RUN).read_text("utf-8"))
    torch.set_num_threads(spec["threads"])
    opts: list[Any] = []
    for key, value in spec["opts"].items():
        if isinstance(value, str):
            value = value.replace("{folder}", str(folder.parent))
        opts += [key, value]
    known = describe()
    code = {**code_version(), "torch": known["torch"], "date": known["date"]}
    result: dict[str, Any] = {
        "status": "done",
        "resumed": has_checkpoint(str(folder)),
        "code": code,
    }
    clock = folder / SECONDS
    spent = _seconds(clock)  # in earlier sessions
    start = time.perf_counter()
    try:
        TRAIN[spec["tool"]](spec["config"], opts, str(folder))
    except NonFiniteError as error:
        result |= {"status": "diverged", "iteration": error.iteration}
    finally:
        spent += time.perf_counter() - start
        with contextlib.suppress(OSError):  # on a full disk the run's own error counts
            atomic_write(clock, lambda file: file.write(f"{spent}\n".encode()))
    result["seconds"] = round(spent, 1)
    atomic_write(folder / RESULT, lambda file: file.write(f"{json.dumps(result)}\n".encode()))
