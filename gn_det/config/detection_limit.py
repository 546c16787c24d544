"""``TEST.MAX_DETECTIONS``: how many detections COCO's AP counts."""

from collections.abc import Iterator

from detectron2.config import CfgNode

from .errors import Problem

__all__ = ["COCO_LIMIT", "max_detections", "max_detections_problems"]

COCO_LIMIT = 100  # the detections of a class on an image that COCO's AP counts


def max_detections(cfg: CfgNode) -> int:
    """Return the number of detections of a class on an image that are scored.

    Args:
        cfg: A config. ``TEST.MAX_DETECTIONS`` 0, or a config of Detectron2 without this key, stands
            for COCO's 100, or for ``TEST.DETECTIONS_PER_IMAGE`` where that is more.
    """
    return cfg.TEST.get("MAX_DETECTIONS", 0) or max(COCO_LIMIT, cfg.TEST.DETECTIONS_PER_IMAGE)


def max_detections_problems(cfg: CfgNode) -> Iterator[Problem]:
    """Yield what is wrong with ``TEST.MAX_DETECTIONS``.

    Args:
        cfg: A config with gn_det's keys.
    """
    if cfg.TEST.MAX_DETECTIONS < 0:
        yield Problem(
            True,
            f"TEST.MAX_DETECTIONS is {cfg.TEST.MAX_DETECTIONS}: a number of detections, or 0 for "
            "COCO's 100 or TEST.DETECTIONS_PER_IMAGE, whichever is more.",
        )
