"""What a study found, as JSON: each run's last values and its curves, and where it was measured."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import gn_det
from gn_det.benchmarks import records
from gn_det.evaluation import read_metrics

from .carry_out import result_of
from .curves import curves
from .plan import Run, Study

__all__ = ["gather", "write"]


def gather(study: Study, folder: Path) -> dict[str, Any]:
    """Return the record of the runs below ``folder``, of those that have not ended as well."""
    return {
        "study": study.name,
        "axes": study.axes,
        "metrics": study.metrics,
        "threads": study.threads,
        "before": [_ended(run, study, folder) for run in study.runs_before()],
        "runs": [
            {**_ended(run, study, folder), "cell": run.cell, "seed": run.seed}
            for run in study.runs()
        ],
    }


def _ended(run: Run, study: Study, folder: Path) -> dict[str, Any]:
    path = folder / run.name / "metrics.json"
    rows = read_metrics(path) if path.exists() else []
    return {"name": run.name, **result_of(folder / run.name), "curves": curves(rows, study.metrics)}


def write(record: dict[str, Any], path: Path, words: list[str], seconds: float) -> None:
    """Write a record with where, when and of which code it was measured.

    Args:
        record: of :func:`gather`.
        path: of the file, which is replaced at once.
        words: of the command line, after the name of the tool.
        seconds: since the study was started, this time.
    """
    known = {
        "command": shlex.join(["tools/study.py", *words]),
        "seconds": round(seconds),
        "seconds_of_runs": round(sum(r.get("seconds", 0) for r in _all(record))),
        **_code(),
    }
    records.write({**record, **known}, path)


def _all(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [*record["before"], *record["runs"]]


def _code() -> dict[str, Any]:
    """Return the git commit, and whether the code differs from it; None where there is no git."""
    git = ["git", "-C", os.path.dirname(gn_det.__file__)]
    # the records themselves lie in docs/studies
    code = ["--", ":/", ":(top,exclude)docs"]
    try:
        commit, changes = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno", *code])
        )
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "changed": None}
    return {"commit": commit.strip(), "changed": bool(changes.strip())}
