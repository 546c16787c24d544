"""What a study found, as JSON: each run's last values and its curves, and where it was measured."""

import shlex
from pathlib import Path
from typing import Any

from benchmarks import records
from gn_det.evaluation import read_metrics

from .carry_out import result_of
from .curves import OF_TOOL, curves
from .plan import Run, Study

__all__ = ["gather", "write"]


def gather(study: Study, folder: Path) -> dict[str, Any]:
    """Return the record of the runs below ``folder``, of those that have not ended as well.

    Each has the keys that it was trained with, so that a study that was changed can be told from
    the one that was run.
    """
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
    # what others start from may be of another kind
    metrics = study.metrics if run.tool == study.tool else OF_TOOL[run.tool]
    return {
        "name": run.name,
        "opts": run.opts,
        **result_of(folder / run.name),
        "curves": curves(rows, metrics),
    }


def write(record: dict[str, Any], path: Path, words: list[str], seconds: float) -> None:
    """Write a record with where, when and by which code its runs were trained.

    Args:
        record: of :func:`gather`.
        path: of the file, which is replaced at once.
        words: of the command line, after the name of the tool.
        seconds: since the study was started, this time.
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
    """Return what trained the runs, which need not be what writes the record."""
    if not codes:
        return {"commit": None, "changed": None}
    return {
        "commit": ", ".join(sorted({code["commit"] for code in codes if code["commit"]})) or None,
        "changed": any(code["changed"] for code in codes),
        "torch": ", ".join(sorted({code["torch"] for code in codes})),
        "date": max(code["date"] for code in codes),
    }
