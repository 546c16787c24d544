"""The record of a study as JSON: result and curves of each run, machine and versions."""

import shlex
from pathlib import Path
from typing import Any

from benchmarks import records
from gn_det.evaluation import read_metrics

from .curves import OF_TOOL, curves
from .plan import Run, Study
from .processes import result_of

__all__ = ["gather", "write"]


def gather(study: Study, folder: Path) -> dict[str, Any]:
    """Return the record of all runs, also of unfinished ones.

    Each run is recorded with its keys, which shows whether the study has changed since.

    Args:
        study: The study.
        folder: The folder of the study.
    """
    return {
        "study": study.name,
        "axes": study.axes,
        "metrics": study.metrics,
        "threads": study.threads,
        "before": [_record_of(run, study, folder) for run in study.runs_before()],
        "runs": [
            {**_record_of(run, study, folder), "cell": run.cell, "seed": run.seed}
            for run in study.runs()
        ],
    }


def _record_of(run: Run, study: Study, folder: Path) -> dict[str, Any]:
    path = folder / run.name / "metrics.json"
    rows = read_metrics(path) if path.exists() else []
    # a run that others start from may use another tool
    metrics = study.metrics if run.tool == study.tool else OF_TOOL[run.tool]
    return {
        "name": run.name,
        "opts": run.opts,
        **result_of(folder / run.name),
        "curves": curves(rows, metrics),
    }


def write(record: dict[str, Any], path: Path, words: list[str], seconds: float) -> None:
    """Write a record, with the machine, the time and the version of the code of its runs.

    Args:
        record: The record of :func:`gather`.
        path: The path of the file, which is replaced atomically.
        words: The arguments of the command line.
        seconds: The seconds since the start of this command.
    """
    runs = [*record["before"], *record["runs"]]
    known = {
        "command": shlex.join(["tools/study.py", *words]),
        "seconds": round(seconds),
        "seconds_of_runs": round(sum(run.get("seconds", 0) for run in runs)),
        **_code([run["code"] for run in runs if "code" in run]),
    }
    records.write({**record, **known}, path)


def _code(codes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the version of the code that trained the runs, which may not be the present one."""
    if not codes:
        return {"commit": None, "changed": None}
    return {
        "commit": ", ".join(sorted({code["commit"] for code in codes if code["commit"]})) or None,
        "changed": any(code["changed"] for code in codes),
        "torch": ", ".join(sorted({code["torch"] for code in codes})),
        "date": max(code["date"] for code in codes),
    }
