"""Whether the masks of a dataset are polygons, or run lengths that Detectron2 reads as bitmasks."""

import logging

__all__ = ["needs_bitmasks"]

logger = logging.getLogger(__name__)


def needs_bitmasks(dicts: list[dict], key: str) -> bool:
    """Return whether a mask is an RLE, which the mask format "polygon" cannot hold, and log it.

    Args:
        dicts: Detectron2's dataset dicts.
        key: The config key of the mask format, for the message.
    """
    masks = (a.get("segmentation") for record in dicts for a in record.get("annotations", []))
    found = any(isinstance(mask, dict) for mask in masks)
    if found:
        logger.info(f"The dataset has masks as RLE: {key} is bitmask.")
    return found
