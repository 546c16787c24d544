"""COCO's run lengths, decoded without pycocotools, which does not check its input."""

from typing import Any

import numpy as np

__all__ = ["rle_extent", "run_lengths"]

_MAX_DIGITS = 7  # of 5 bits each: 2 ** 34 pixels


def run_lengths(counts: Any) -> np.ndarray | None:
    """Return the lengths of the runs of background, foreground, background, ...

    Args:
        counts: The compressed text of COCO, or the list of lengths.

    Returns:
        An array (N,) of int64, at least 0 each; None where ``counts`` is malformed.
    """
    if isinstance(counts, str):
        runs = _decompress(counts)
    elif type(counts) is list and set(map(type, counts)) <= {int}:
        fits = not counts or (min(counts) >= 0 and max(counts) < 2**31)
        runs = np.array(counts, dtype=np.int64) if fits else None
    else:
        return None
    return runs if runs is not None and (runs >= 0).all() else None


def rle_extent(rle: dict) -> tuple[float, float, float, float]:
    """Return the left, top, right and bottom of the foreground in pixels.

    Args:
        rle: {"size": [height, width], "counts": ...}, whose runs fill it and have a foreground.
    """
    runs, height = run_lengths(rle["counts"]), rle["size"][0]
    assert runs is not None
    ends = np.cumsum(runs)
    starts, ends = (ends - runs)[1::2], ends[1::2]
    starts, ends = starts[ends > starts], ends[ends > starts] - 1  # the last pixel of each run
    left, right = starts[0] // height, ends[-1] // height + 1
    if (starts // height != ends // height).any():  # a run goes on in the next column
        return float(left), 0.0, float(right), float(height)
    top, bottom = (starts % height).min(), (ends % height).max() + 1
    return float(left), float(top), float(right), float(bottom)


def _decompress(text: str) -> np.ndarray | None:
    """Undo pycocotools' ``rleToString``.

    Each character less 48 is a digit of 5 bits, the lowest first. Its bit 0x20 says that more
    digits follow, and bit 0x10 of a number's last digit is the sign. From the third number on, each
    is the difference to the run before the last one.
    """
    if not text.isascii():
        return None
    digits = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    if not len(digits):
        return digits
    last = np.flatnonzero(digits & 0x20 == 0)
    if digits.min() < 0 or digits.max() > 63 or not len(last) or last[-1] != len(digits) - 1:
        return None
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > _MAX_DIGITS:
        return None
    place = np.arange(len(digits)) - np.repeat(first, lengths)
    numbers = np.add.reduceat((digits & 0x1F) << (5 * place), first)
    numbers -= np.where(digits[last] & 0x10, np.int64(1) << (5 * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
