"""Where a run's numbers go: a progress bar or lines, ``metrics.json`` and TensorBoard.

A person at a terminal (stderr) sees a bar with the time left; elsewhere Detectron2 prints lines.
``log.txt`` has these lines in either case (:mod:`gn_det.engine.run_log`).
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path

from detectron2.engine import HookBase, default_writers
from detectron2.utils.events import EventWriter
from tqdm import tqdm

__all__ = [
    "ProgressBar",
    "build_writers",
    "in_terminal",
    "inference_bar",
    "writing_period",
]


def in_terminal() -> bool:
    """Return whether stderr is a terminal of known width, so that a person sees a bar."""
    stream = sys.stderr  # None where a program has none
    if stream is None or not stream.isatty() or os.environ.get("TERM") == "dumb":
        return False
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):  # a window that is no device
        return True


def build_writers(folder: str, max_iter: int) -> list[EventWriter]:
    """Return Detectron2's writers.

    Args:
        folder: The folder of the run. A ``metrics.json`` that is there is continued; where its last
            line was cut off, that line stays as it is, and the next one begins on its own.
        max_iter: The number of iterations of the run, for the time left.
    """
    _end_last_line(Path(folder, "metrics.json"))
    return default_writers(folder, max_iter)


def writing_period(eval_period: int, log_period: int = 20) -> int:
    """Return the iterations from one writing to the next.

    A writer has the last value of each number alone, so it writes at least at each evaluation.

    Args:
        eval_period: The iterations from one evaluation to the next; 0: one at the end.
        log_period: The largest period; 20 is Detectron2's.
    """
    return min(log_period, eval_period) if eval_period > 0 else log_period


def _end_last_line(path: Path) -> None:
    if not path.exists() or path.stat().st_size == 0:
        return
    with open(path, "rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.write(b"\n")


class ProgressBar(HookBase):
    """Shows iterations, time left, loss and learning rate of a training."""

    _bar: tqdm | None = None

    def before_train(self) -> None:
        """Start the bar at the first iteration, which is not 0 in a resumed run."""
        trainer = self.trainer
        self._bar = tqdm(
            initial=trainer.start_iter,
            total=trainer.max_iter,
            desc="train",
            unit="it",
            dynamic_ncols=True,
        )

    def after_step(self) -> None:
        """Advance the bar by one iteration."""
        latest = self.trainer.storage.latest()
        shown = {
            name: f"{latest[key][0]:.4g}"
            for name, key in (("loss", "total_loss"), ("lr", "lr"))
            if key in latest
        }
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update()

    def after_train(self) -> None:
        """Close the bar; after an error there may be none yet."""
        if self._bar is not None:
            self._bar.close()


class _Bar:
    """A data loader that shows how much of it was read.

    Args:
        loader: An iterable with a length.
        description: The words before the bar.
    """

    def __init__(self, loader: Iterable, description: str):
        self._loader, self._description = loader, description

    def __len__(self) -> int:
        if not isinstance(self._loader, Sized):
            raise TypeError(f"{type(self._loader).__name__} has no length.")
        return len(self._loader)

    def __iter__(self) -> Iterator:
        return iter(
            tqdm(self._loader, desc=self._description, unit="batch", dynamic_ncols=True, leave=None)
        )


def inference_bar(loader: Iterable, name: str) -> Iterable:
    """Return a data loader with a progress bar in a terminal; elsewhere the loader itself.

    Args:
        loader: The data loader, with a length.
        name: The name of the dataset, which stands before the bar.
    """
    return _Bar(loader, name) if in_terminal() else loader
