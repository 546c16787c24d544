"""A whole study: its runs, told as they end, and its record."""

import os
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .carry_out import carry_out
from .plan import Run, Study
from .record import gather, write

__all__ = ["carry_out_study"]


def carry_out_study(
    study: Study,
    folder: Path,
    *,
    jobs: int | None = None,
    output: Path | None = None,
    words: list[str] | None = None,
) -> dict[str, Any]:
    """Train what is not trained yet; return the record.

    Args:
        study: of :func:`studies.load_study`.
        folder: of the runs.
        jobs: runs at once. None: as many as there are cores for their threads.
        output: a JSON file, written after every run.
        words: of the command line, for the record.

    Raises:
        ConfigError: the folder holds runs with other options.
    """
    jobs = jobs or max(1, (os.cpu_count() or 1) // study.threads)
    start = time.perf_counter()
    before, runs, ended = study.runs_before(), study.runs(), 0
    first_with: dict[str, str] = {}  # run by reason: a missing dataset fails them all
    with tqdm(total=len(before) + len(runs), unit="run", disable=None, leave=False) as bar:

        def tell(run: Run, result: dict[str, Any]) -> None:
            nonlocal ended
            ended += 1
            bar.update()
            first = first_with.setdefault(result.get("reason", ""), run.name)
            tqdm.write(f"{ended:>3}/{bar.total} {run.name}: {_said(result, run.name, first)}")
            if output:
                write(record(), output, words or [], time.perf_counter() - start)

        def record() -> dict[str, Any]:
            return {**gather(study, folder), "jobs": jobs}

        carry_out(before, folder, jobs, tell)
        carry_out(runs, folder, jobs, tell, before)
    return record()


def _said(result: dict[str, Any], name: str, first: str) -> str:
    if result["status"] == "not run":
        return "its process ended before it began"
    if result["status"] == "failed":
        return f"failed: {result['reason']}" if name == first else f"failed as {first} did"
    at = f" at iteration {result['iteration']:,}" if "iteration" in result else ""
    return f"{result['status']}{at}, {result['seconds']:.0f} s"
