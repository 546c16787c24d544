"""Runs a whole study: prints each run at its end, and writes the record."""

import os
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .plan import Run, Study
from .processes import run_all
from .record import gather, write

__all__ = ["run_study"]


def run_study(
    study: Study,
    folder: Path,
    *,
    jobs: int | None = None,
    output: Path | None = None,
    words: list[str] | None = None,
) -> dict[str, Any]:
    """Train all runs that are not finished, and return the record.

    Args:
        study: The study.
        folder: The folder of the runs.
        jobs: The number of runs at once; None for as many as there are cores for their threads.
        output: The path of a JSON file for the record, written after every run. None writes none.
        words: The arguments of the command line, for the record.

    Raises:
        ConfigError: The folder holds runs with other options.
    """
    jobs = jobs or max(1, (os.cpu_count() or 1) // study.threads)
    start = time.perf_counter()
    before, runs, ended = study.runs_before(), study.runs(), 0
    first_with: dict[str, str] = {}  # the first run by reason: a missing dataset fails all runs
    with tqdm(total=len(before) + len(runs), unit="run", disable=None, leave=False) as bar:

        def report(run: Run, result: dict[str, Any]) -> None:
            nonlocal ended
            ended += 1
            bar.update()
            first = first_with.setdefault(result.get("reason", ""), run.name)
            tqdm.write(f"{ended:>3}/{bar.total} {run.name}: {_describe(result, run.name, first)}")
            if output:
                write(record(), output, words or [], time.perf_counter() - start)

        def record() -> dict[str, Any]:
            return {**gather(study, folder), "jobs": jobs}

        run_all(before, folder, jobs, report)
        run_all(runs, folder, jobs, report, before)
    return record()


def _describe(result: dict[str, Any], name: str, first: str) -> str:
    if result["status"] == "not run":
        return "its process ended before it started to train"
    if result["status"] == "failed":
        reason = result["reason"] if name == first else f"the same reason as {first}"
        return f"failed: {reason}"
    at = f" at iteration {result['iteration']:,}" if "iteration" in result else ""
    return f"{result['status']}{at}, {result['seconds']:.0f} s"
