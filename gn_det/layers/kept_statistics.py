"""Mean and rstd of norms that backward recomputes: kept, since they are small and cost one read.

A piece of activation checkpointing runs twice. In its first run each norm keeps its statistics, in
the second run it takes them back, in the same order. Each thread has its own, as backward may run
in another thread than forward.

Shapes:
    N: images or RoIs
    G: groups
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["Statistics", "keep_statistics", "keeping_statistics", "kept_statistics", "reusing"]

# mean and rstd, each of shape (N, G) and dtype float32; None for a norm that PyTorch ran
Statistics = tuple[torch.Tensor, torch.Tensor] | None


class _Thread(threading.local):
    lists: tuple[list[Statistics], ...] = ()  # of the pieces that run for the first time
    kept: Iterator[Statistics] = iter(())  # of the piece that is recomputed


_thread = _Thread()


@contextmanager
def keeping_statistics(kept: list[Statistics]) -> Iterator[None]:
    """Within the block, the statistics of each norm are added to a list.

    Args:
        kept: The list. In a block within a block, the statistics go to both lists.
    """
    before = _thread.lists
    _thread.lists = (*before, kept)
    try:
        yield
    finally:
        _thread.lists = before


@contextmanager
def reusing(kept: list[Statistics]) -> Iterator[None]:
    """Within the block, which repeats an earlier one, each norm gets its statistics back.

    Args:
        kept: The list of :func:`keeping_statistics`. It is not changed.
    """
    before = _thread.lists, _thread.kept
    _thread.lists, _thread.kept = (), iter(kept)
    try:
        yield
    finally:
        _thread.lists, _thread.kept = before


def kept_statistics() -> Statistics:
    """Return the statistics of the norm that runs now; None if it has to compute them.

    A norm calls this once, and then :func:`keep_statistics`, whatever code runs it: the order of
    the calls is what tells norms apart.
    """
    return next(_thread.kept, None)


def keep_statistics(statistics: Statistics) -> None:
    """Keep the statistics of the norm that runs now, where somebody asked for them.

    Args:
        statistics: Mean and rstd, or None for a norm that PyTorch ran.
    """
    for kept in _thread.lists:
        kept.append(statistics)
