"""Images that are so narrow that nothing is left of them after the resizing."""

from collections.abc import Iterable, Iterator

from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge

__all__ = ["narrow_problem", "vanishing_size"]


def vanishing_size(
    size: tuple[int, int], shortest: int = 800, longest: int = 1333
) -> tuple[int, int] | None:
    """Return the size after the resizing where a side of it is 0; else None.

    Args:
        size: The size (width, height) in pixels.
        shortest: The value of ``INPUT.MIN_SIZE_TRAIN`` or ``MIN_SIZE_TEST``; 0 resizes nothing.
        longest: The value of ``INPUT.MAX_SIZE_TRAIN`` or ``MAX_SIZE_TEST``.
    """
    if not shortest or min(size) < 1:
        return None
    height, width = ResizeShortestEdge.get_output_shape(size[1], size[0], shortest, longest)
    return None if min(height, width) > 0 else (width, height)


def narrow_problem(dicts: Iterable[dict], cfg: CfgNode, *, training: bool) -> str | None:
    """Return the problem of the images that are too narrow for a config; None without such.

    Args:
        dicts: Detectron2's dataset dicts. Those without a size are not looked at.
        cfg: A config with the sizes of ``INPUT``.
        training: Whether the sizes are those of training; else of the evaluation.
    """
    split = "TRAIN" if training else "TEST"
    sides, longest = cfg.INPUT[f"MIN_SIZE_{split}"], cfg.INPUT[f"MAX_SIZE_{split}"]
    shortest = min(sides) if isinstance(sides, list | tuple) else sides
    found = list(_vanishing(dicts, shortest, longest))
    if not found:
        return None
    (path, (width, height), (new_width, new_height)), *_ = found
    return (
        f"{len(found)} image{'s are' if len(found) > 1 else ' is'} too narrow to be resized, such "
        f"as {path}: {width} x {height} pixels become {new_width} x {new_height} at "
        f"INPUT.MAX_SIZE_{split} {longest}. Remove it from the json, or cut it into parts."
    )


def _vanishing(
    dicts: Iterable[dict], shortest: int, longest: int
) -> Iterator[tuple[str, tuple[int, int], tuple[int, int]]]:
    for record in dicts:
        size = (record.get("width", 0), record.get("height", 0))
        if resized := vanishing_size(size, shortest, longest):
            yield record["file_name"], size, resized
