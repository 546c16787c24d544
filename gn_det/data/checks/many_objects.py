"""Images with more objects than an evaluation can find."""

import logging
from collections import Counter
from collections.abc import Iterable

__all__ = ["warn_of_many_objects"]

logger = logging.getLogger(__name__)


def warn_of_many_objects(
    name: str,
    images: Iterable[tuple[object, list]],
    scored: int,
    detected: int | None = None,
) -> None:
    """Warn where even perfect detections of a dataset would not have an AP of 100.

    Args:
        name: The name of the dataset.
        images: The name of each image, and the class of each of its objects.
        scored: The number of detections of a class on an image that are scored.
        detected: The number of detections of an image that the model returns. Negative for any
            number; None where no model is evaluated.
    """
    images = [(image, classes) for image, classes in images if classes]
    objects = [len(classes) for _, classes in images]
    of_a_class = [max(Counter(classes).values()) for _, classes in images]
    if detected is not None and 0 <= detected < max(objects, default=0):
        # what is scored follows this key
        key, limit, counts = "TEST.DETECTIONS_PER_IMAGE", detected, objects
        what, counted = "objects", "that the model returns"
    elif scored < max(of_a_class, default=0):
        key, limit, counts = "TEST.MAX_DETECTIONS", scored, of_a_class
        what, counted = "objects of a class", "detections that are scored"
    else:
        return
    number, most = sum(count > limit for count in counts), max(counts)
    logger.warning(
        f"{name}: {number} of its images {'has' if number == 1 else 'have'} more {what} than the "
        f"{limit} {counted}: even perfect detections would have an AP below 100. "
        f"{images[counts.index(most)][0]} has {most}. Set {key} {most}."
    )
