"""The page of all studies, docs/study.md, from their records."""

import json
from pathlib import Path
from typing import Any

from gn_det.config import ConfigError

from .plan import list_studies, load_study
from .plot import plot
from .table import table

__all__ = ["page", "write_page"]

INTRO = """\
# The paper's experiments at desk scale

What the Group Normalization paper shows with ImageNet, COCO and Kinetics on eight GPUs, looked for
in minutes on a CPU: small real pictures, small networks, the same code that trains the large ones.
The numbers cannot be the paper's; what can be compared is who is ahead, and where. A study is one
file in [studies/configs](../studies/configs), and anybody can repeat it:

    tools/study.py NAME              # all that was found is in output/studies
    tools/study.py NAME --quick      # shows that it works, in a minute or so
    tools/study.py report            # this page, from the records in docs/studies

"±" is the standard deviation over seeds (a number without it is of one seed); in pictures the
lines are single seeds, the bars in the panels of last values go from the least to the largest.
Values are those after the last iteration; minutes are those of runs beside other work. Of the
paper's figures the last values are drawn. The same command resumes a study that was stopped.
This page is made by a command: do not edit it.

Detection, scratch and video need nothing; the others need the four files of Fashion-MNIST
([where they are looked for](pretraining.md#data)).
"""


def page(folder: Path) -> str:
    """Return the text of the page.

    Args:
        folder: The folder of the records, with a ``NAME.json`` for each study that was run. The
            page is written to its parent folder.
    """
    there = [name for name in list_studies() if (folder / f"{name}.json").exists()]
    records = {name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in there}
    missing = [name.replace("_", "-") for name in list_studies() if not _whole(records.get(name))]
    parts = [INTRO]
    if missing:
        parts.append(f"Not run in full yet: {', '.join(missing)}.\n")
    parts += [_section(record, folder.name) for record in records.values()]
    return "\n".join(parts)


def _whole(record: dict[str, Any] | None) -> bool:
    ended = {run["status"] for run in record["runs"]} if record else {"not run"}
    return ended <= {"done", "diverged"}


def write_page(folder: Path) -> Path:
    """Write the page to the parent of ``folder``, and the plots to ``folder``.

    Args:
        folder: The folder of the records.

    Returns:
        The path of the page.

    Raises:
        ConfigError: The folder has no record. An existing page is not changed.
    """
    if not any((folder / f"{name}.json").exists() for name in list_studies()):
        raise ConfigError(f"{folder} has no record of a study (NAME.json).")
    for name in list_studies():
        path = folder / f"{name}.json"
        if path.exists():
            plot(
                json.loads(path.read_text("utf-8")),
                load_study(name).published,
                folder / f"{name}.png",
            )
    written = folder.parent / "study.md"
    written.write_text(page(folder), "utf-8")
    return written


def _section(record: dict[str, Any], folder: str) -> str:
    study = load_study(record["study"])
    parts = [f"## {study.title}", study.paper.strip()]
    if study.seen.strip():
        parts.append(study.seen.strip())
    parts += [
        table(record, study.published, form="github"),
        f"![{study.title}]({folder}/{study.name}.png)",
        f"    {record['command']}",
        f"{_where(record)} Settings: "
        f"[studies/configs/{study.name}.yaml](../studies/configs/{study.name}.yaml); all values: "
        f"[{study.name}.json]({folder}/{study.name}.json).",
    ]
    return "\n\n".join(parts) + "\n"


def _where(record: dict[str, Any]) -> str:
    machine = record["machine"]
    trained = len(record["runs"]) + len(record["before"])
    threads = f"{record['threads']} thread" + ("s" if record["threads"] > 1 else "")
    commits = [commit[:10] for commit in (record["commit"] or "").split(", ") if commit]
    commit = f", commit {' and '.join(commits)}" if commits else ""
    changed = " with changes" if record["changed"] else ""
    return (
        f"{trained} trainings of {threads}, {record['seconds_of_runs'] / 60:.1f} minutes together, "
        f"{record['jobs']} at once. {machine['gpu'] or machine['cpu']}, {machine['cores']} cores; "
        f"torch {record['torch']}, {record['date'][:10]}{commit}{changed}."
    )
