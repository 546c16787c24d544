"""Loads what is to be evaluated, and refuses to evaluate what would be random."""

from typing import Any

from gn_det.checkpoint import Checkpointer, WeightsError
from gn_det.config import ConfigError

__all__ = ["load_to_evaluate"]


def load_to_evaluate(
    checkpointer: Checkpointer, weights: str, *, resume: bool = False, key: str = "MODEL.WEIGHTS"
) -> dict[str, Any]:
    """Fill the whole model of ``checkpointer``.

    Args:
        checkpointer: of the model.
        weights: a path or URL, see :meth:`gn_det.checkpoint.Checkpointer.load`.
        resume: take the latest checkpoint of the folder, where there is one.
        key: what names ``weights``, for the message.

    Returns:
        What else the file holds, such as the iteration.

    Raises:
        ConfigError: there is nothing to load.
        FileNotFoundError: no such file.
        WeightsError: a file that cannot be used, or has nothing for a part of the model.
    """
    resume = resume and checkpointer.has_checkpoint()
    if not weights and not resume:
        raise ConfigError(
            f"There is nothing to evaluate: {key} is empty, and no run is named by --resume and "
            "its folder."
        )
    checkpoint = checkpointer.resume_or_load(weights, resume=resume)
    report = checkpointer.report
    random = [*report.missing, *(name for name, *_ in report.shape_mismatch)]
    if random:
        source = checkpointer.save_dir if resume else weights
        raise WeightsError(
            f"{source}: it has nothing of the right shape for {random[0]}"
            f"{f' and {len(random) - 1} more' if random[1:] else ''}, which would be random in the "
            "evaluation. Give the weights of a whole model."
        )
    return checkpoint
