"""Several runs of a study at once, each in its own process. Finished runs are not repeated."""

import json
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.whole_run import check_run_folder, settings_of

from .one_run import CONSOLE, RESULT, run_process
from .plan import Run

__all__ = ["result_of", "run_all"]

GRACE = 30.0  # seconds that a stopped run has to save a checkpoint


def run_all(
    runs: Sequence[Run],
    folder: Path,
    jobs: int,
    on_end: Callable[[Run, dict[str, Any]], None] = lambda run, result: None,
    before: Sequence[Run] = (),
) -> None:
    """Train all runs that are not finished, several at once. A failed run does not stop others.

    The output of a run goes to ``console.txt`` in its folder. An interrupted run is resumed.

    Args:
        runs: The runs.
        folder: The folder of the study, with a folder for each run.
        jobs: The number of processes at a time.
        on_end: A function that is called with each run at its end, and its :func:`result_of`.
        before: The runs whose weights these runs start from. They belong to the set-up of a run.

    Raises:
        ConfigError: A folder holds a run with other options.
    """
    others = {"before": {run.name: _spec(run) for run in before}} if before else {}
    for run in runs:
        check_run_folder(folder / run.name, {**_spec(run), **others})
    waiting = []
    for run in runs:
        if (folder / run.name / RESULT).exists():
            on_end(run, result_of(folder / run.name))
        else:
            waiting.append(run)
    waiting.reverse()
    running: dict[BaseProcess, Run] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop()
                running[_start(folder / run.name)] = run
            connection.wait([process.sentinel for process in running])
            for process in [p for p in running if not p.is_alive()]:
                run = running.pop(process)
                on_end(run, result_of(folder / run.name))
    finally:
        _stop(list(running))


def result_of(folder: Path) -> dict[str, Any]:
    """Return the result of a run: ``status`` "done", "diverged", "failed" or "not run", and more.

    A run that was started but has no result has failed or was stopped. Its ``reason`` is the last
    line of its output.

    Args:
        folder: The folder of the run.
    """
    if (folder / RESULT).exists():
        return json.loads((folder / RESULT).read_text("utf-8"))
    console = folder / CONSOLE
    if not console.exists():
        return {"status": "not run"}
    lines = [line.strip() for line in console.read_text("utf-8", "replace").split("\n")]
    return {"status": "failed", "reason": next(filter(None, reversed(lines)), "no output")}


def _spec(run: Run) -> dict[str, Any]:
    spec = {key: value for key, value in asdict(run).items() if key not in ("name", "cell")}
    # a file may change before a run is resumed
    settings = settings_of(run.config)
    return {**spec, "settings": settings} if settings else spec


def _start(folder: Path) -> BaseProcess:
    # forked from a server with all imports, which take longer than a quick run
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([run_process.__module__])
    process = context.Process(target=run_process, args=(str(folder),), name=folder.name)
    process.start()
    return process


def _stop(processes: list[BaseProcess]) -> None:
    """Stop the processes: on SIGTERM a training saves a checkpoint and exits."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(GRACE)
        if process.is_alive():
            process.kill()
            process.join()
