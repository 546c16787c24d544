"""A progress bar with the time left in a terminal; plain lines, by Detectron2, elsewhere."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from detectron2.engine import HookBase
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

__all__ = ["ProgressBar", "in_terminal", "inference_bar"]


def in_terminal() -> bool:
    """Return whether a person watches: stderr is a terminal."""
    return sys.stderr.isatty()


class ProgressBar(HookBase):
    """Shows iterations, time left, loss and learning rate."""

    _bar: tqdm | None = None

    def before_train(self) -> None:
        """Start the bar where the run starts, which is later for a resumed one."""
        trainer = self.trainer
        self._bar = tqdm(
            initial=trainer.start_iter,
            total=trainer.max_iter,
            desc="train",
            unit="it",
            dynamic_ncols=True,
        )
        loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "gn_det")]
        self._redirect = logging_redirect_tqdm(loggers)
        self._redirect.__enter__()

    def after_step(self) -> None:
        """Move on by one."""
        latest = self.trainer.storage.latest()
        shown = {
            name: f"{latest[key][0]:.4g}"
            for name, key in (("loss", "total_loss"), ("lr", "lr"))
            if key in latest
        }
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        """Take the bar away, also after an error, which may have come before it was there."""
        if self._bar is None:
            return
        self._redirect.__exit__(None, None, None)
        self._bar.close()


class _Bar:
    """A data loader that shows how far it was read."""

    def __init__(self, loader: Iterable, description: str):
        self._loader, self._description = loader, description

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator:
        return iter(tqdm(self._loader, desc=self._description, unit="batch", dynamic_ncols=True))


def inference_bar(loader: Iterable, name: str) -> Iterable:
    """Return ``loader`` with a progress bar in a terminal, as it is elsewhere."""
    return _Bar(loader, name) if in_terminal() else loader


@contextmanager
def quiet_inference() -> Iterator[None]:
    """Hold back Detectron2's "Inference done" lines where a bar is shown."""
    logger = logging.getLogger("detectron2.evaluation.evaluator")
    level = logger.level
    if in_terminal():
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
