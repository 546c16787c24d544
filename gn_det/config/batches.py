"""How ``SOLVER.IMS_PER_BATCH`` is split: among processes, and into micro-batches.

With gradient accumulation a process runs several micro-batches a step, one after the other, and
sums up their gradients (``SOLVER.IMS_PER_STEP``).
"""

from collections.abc import Iterator

from detectron2.config import CfgNode

from .defaults import require_gn_config
from .errors import ConfigError, Problem

__all__ = ["batch_problems", "images_per_micro_batch"]


def images_per_micro_batch(cfg: CfgNode, num_processes: int) -> int:
    """Return the number of images in one forward pass of one process.

    Args:
        cfg: A config with gn_det's keys. ``SOLVER.IMS_PER_STEP`` 0 stands for all images of a
            process.
        num_processes: The number of processes that share ``SOLVER.IMS_PER_BATCH``.

    Raises:
        ConfigError: The batch cannot be split so, or the config lacks gn_det's keys.
    """
    require_gn_config(cfg)
    for problem in _batch_that_does_not_split(cfg, num_processes):
        raise ConfigError(problem.message)
    return cfg.SOLVER.IMS_PER_STEP or cfg.SOLVER.IMS_PER_BATCH // num_processes


def batch_problems(cfg: CfgNode, num_processes: int, unfrozen: dict[str, str]) -> Iterator[Problem]:
    """Yield what is wrong with the batch, and what norms with batch statistics make of it.

    Args:
        cfg: A finished config with gn_det's keys.
        num_processes: The number of processes that share the batch.
        unfrozen: The names of the model's norms that update statistics, by the key that holds the
            name, such as ``{"MODEL.FPN.NORM": "BN"}``.
    """
    problems = list(_batch_that_does_not_split(cfg, num_processes))
    yield from problems
    if problems:
        return
    per_forward = images_per_micro_batch(cfg, num_processes)
    micro_batches = cfg.SOLVER.IMS_PER_BATCH // (per_forward * num_processes)
    for key, name in unfrozen.items():
        images = per_forward * num_processes if name == "SyncBN" else per_forward
        if images < 8:
            yield Problem(
                False,
                f"{key} is {name}, unfrozen, with statistics of {images:g} images. ImageNet "
                "error of R50 at 32, 16, 8, 4, 2 images: BN 23.6, 23.7, 24.8, 27.3, 34.7; GN 24.1, "
                "24.2, 24.0, 24.2, 24.1 (Group Normalization, table 2). Consider GN.",
            )
        if micro_batches > 1:
            yield Problem(
                False,
                f"SOLVER.IMS_PER_STEP {per_forward} makes {micro_batches} micro-batches a step, "
                f"and {key} is {name}, unfrozen: its statistics are those of a micro-batch, and "
                "its running averages move with each one. With GN gradient accumulation gives the "
                "result of as many GPUs; with this norm it does not.",
            )


def _batch_that_does_not_split(cfg: CfgNode, num_processes: int) -> Iterator[Problem]:
    batch, per_forward = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.IMS_PER_STEP
    if batch < 1 or batch % num_processes:
        yield Problem(
            True,
            f"SOLVER.IMS_PER_BATCH {batch} cannot be shared equally by {num_processes} processes.",
        )
    elif per_forward < 0 or (per_forward and batch % (per_forward * num_processes)):
        share = batch // num_processes
        divisors = [n for n in range(1, share + 1) if share % n == 0]
        yield Problem(
            True,
            f"SOLVER.IMS_PER_STEP {per_forward} does not divide the {share} images that a process "
            f"has (SOLVER.IMS_PER_BATCH {batch}, processes: {num_processes}). These do: "
            f"{', '.join(map(str, divisors))}; 0 takes them all at once.",
        )
