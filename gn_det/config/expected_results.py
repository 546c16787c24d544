"""Whether ``TEST.EXPECTED_RESULTS`` can be compared with anything."""

import math
from collections.abc import Iterator

from detectron2.config import CfgNode

from .errors import Problem

__all__ = ["expected_problems"]

# the tasks of Detectron2's evaluators; its configs add _TTA to them for test-time augmentation
TASKS = ("bbox", "segm", "keypoints", "box_proposals", "sem_seg", "panoptic_seg")


def expected_problems(cfg: CfgNode) -> Iterator[Problem]:
    """Yield the first entry that is malformed, or that nothing would be compared with.

    Args:
        cfg: A finished config with gn_det's keys.
    """
    if cfg.TEST.EXPECTED_RESULTS and not cfg.DATASETS.TEST:
        yield Problem(
            True,
            "TEST.EXPECTED_RESULTS is set and DATASETS.TEST is empty: nothing would be compared. "
            "Name a dataset, or take the results out.",
        )
    for entry in cfg.TEST.EXPECTED_RESULTS:
        wrong = _what_is_wrong(entry)
        if wrong:
            yield Problem(
                True,
                f"TEST.EXPECTED_RESULTS has {entry!r}: {wrong} It is a list of [TASK, METRIC, "
                "PERCENT, TOLERANCE], such as [['bbox', 'AP', 40.3, 0.2]].",
            )
            return


def _what_is_wrong(entry: object) -> str:
    if not isinstance(entry, list | tuple) or len(entry) != 4:
        return "no list of four."
    task, metric, *numbers = entry
    if not isinstance(task, str) or not isinstance(metric, str):
        return "task and metric are text."
    # with a NaN, which is not larger than any tolerance, every result would pass
    if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
        return "result and tolerance are numbers."
    if task.removesuffix("_TTA") not in TASKS:
        return f"there is no task {task!r}; known are {', '.join(TASKS)}."
    return ""
