"""Where a run's numbers go: ``metrics.json``, TensorBoard, and lines where no bar is shown."""

import os
from pathlib import Path

from detectron2.engine import default_writers
from detectron2.utils.events import CommonMetricPrinter, EventWriter

from gn_det.engine.hooks.progress import in_terminal

__all__ = ["build_writers", "writing_period"]


def build_writers(folder: str, max_iter: int) -> list[EventWriter]:
    """Return Detectron2's writers, without its lines where a person sees a bar.

    Args:
        folder: of the run. A ``metrics.json`` that is there goes on; a last line that was cut off
            stays as it is, and the next one begins on a line of its own.
        max_iter: of the run, for the time left.
    """
    _end_last_line(Path(folder, "metrics.json"))
    writers = default_writers(folder, max_iter)
    if in_terminal():
        writers = [w for w in writers if not isinstance(w, CommonMetricPrinter)]
    return writers


def writing_period(eval_period: int, usual: int = 20) -> int:
    """Return the iterations from one writing to the next: so few that no evaluation is replaced.

    Args:
        eval_period: iterations from one evaluation to the next; 0 for one at the end.
        usual: what it is otherwise; 20 is Detectron2's.
    """
    return min(usual, eval_period) if eval_period > 0 else usual


def _end_last_line(path: Path) -> None:
    if not path.exists() or path.stat().st_size == 0:
        return
    with open(path, "rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.write(b"\n")
