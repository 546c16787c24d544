"""Runs of a study, several at once, each in its own process: what is done is not done again."""

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

__all__ = ["carry_out", "result_of"]

GRACE = 30.0  # seconds for a run that is asked to leave, to save before


def carry_out(
    runs: Sequence[Run],
    folder: Path,
    jobs: int,
    told: Callable[[Run, dict[str, Any]], None] = lambda run, result: None,
    before: Sequence[Run] = (),
) -> None:
    """Train all ``runs`` that are not done yet, ``jobs`` at once; none of them ends the others.

    What a run prints goes to ``console.txt`` in its folder. One that was stopped goes on.

    Args:
        runs: see :class:`studies.plan.Run`.
        folder: of the study; each run gets one below it.
        jobs: processes at a time.
        told: is called with each run that has ended, and with how (:func:`result_of`).
        before: the runs that these start from; with other ones they would be other runs.

    Raises:
        ConfigError: a folder holds a run with other options.
    """
    others = {"before": {run.name: _spec(run) for run in before}} if before else {}
    for run in runs:
        check_run_folder(folder / run.name, {**_spec(run), **others})
    waiting = []
    for run in runs:
        if (folder / run.name / RESULT).exists():
            told(run, result_of(folder / run.name))
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
                told(run, result_of(folder / run.name))
    finally:
        _stop(list(running))


def result_of(folder: Path) -> dict[str, Any]:
    """Return how a run ended: ``status`` "done", "diverged" or "failed", and what goes with it.

    A run without a result has failed, or was stopped: its ``reason`` is the last line it printed.
    One that was never started is "not run".
    """
    if (folder / RESULT).exists():
        return json.loads((folder / RESULT).read_text())
    console = folder / CONSOLE
    if not console.exists():
        return {"status": "not run"}
    said = [line.strip() for line in console.read_text(errors="replace").split("\n")]
    return {"status": "failed", "reason": next(filter(None, reversed(said)), "it said nothing")}


def _spec(run: Run) -> dict[str, Any]:
    spec = {key: value for key, value in asdict(run).items() if key not in ("name", "cell")}
    # a file may be changed between two starts
    settings = settings_of(run.config)
    return {**spec, "settings": settings} if settings else spec


def _start(folder: Path) -> BaseProcess:
    # forked from a server that has imported everything, which takes longer than a quick run
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([run_process.__module__])
    process = context.Process(target=run_process, args=(str(folder),), name=folder.name)
    process.start()
    return process


def _stop(processes: list[BaseProcess]) -> None:
    """End what is left: a training saves and leaves when it is asked to."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(GRACE)
        if process.is_alive():
            process.kill()
            process.join()
