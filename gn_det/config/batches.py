"""How ``SOLVER.IMS_PER_BATCH`` is shared by processes and by their forward passes."""

from collections.abc import Iterator

from detectron2.config import CfgNode

from .errors import ConfigError, Problem

__all__ = ["batch_problems", "images_per_micro_batch"]

UNFROZEN_BN = ("BN", "SyncBN")


def images_per_micro_batch(cfg: CfgNode, num_processes: int) -> int:
    """Return the images in one forward pass of one process.

    Args:
        cfg: ``SOLVER.IMS_PER_STEP`` says it; 0 stands for all of a process's share.
        num_processes: that share ``SOLVER.IMS_PER_BATCH``.

    Raises:
        ConfigError: the batch cannot be shared so.
    """
    for problem in _batch_that_does_not_split(cfg, num_processes):
        raise ConfigError(problem.message)
    return cfg.SOLVER.IMS_PER_STEP or cfg.SOLVER.IMS_PER_BATCH // num_processes


def batch_problems(cfg: CfgNode, num_processes: int, norms: dict[str, str]) -> Iterator[Problem]:
    """Yield what is wrong with the batch, and what unfrozen BN makes of it.

    Args:
        cfg: a finished config.
        num_processes: that share the batch.
        norms: config key -> name of the norm.
    """
    problems = list(_batch_that_does_not_split(cfg, num_processes))
    yield from problems
    if problems:
        return
    per_pass = images_per_micro_batch(cfg, num_processes)
    passes = cfg.SOLVER.IMS_PER_BATCH // (per_pass * num_processes)
    for key, name in norms.items():
        if name not in UNFROZEN_BN:
            continue
        images = per_pass * num_processes if name == "SyncBN" else per_pass
        if images < 8:
            yield Problem(
                False,
                f"{key} is {name}, unfrozen, with statistics of {images:g} images. ImageNet "
                "error of R50 at 32, 16, 8, 4, 2 images: BN 23.6, 23.7, 24.8, 27.3, 34.7; GN 24.1, "
                "24.2, 24.0, 24.2, 24.1 (Group Normalization, table 2). Consider GN.",
            )
        if passes > 1:
            yield Problem(
                False,
                f"SOLVER.IMS_PER_STEP {per_pass} makes {passes} forward passes a step, and {key} "
                f"is {name}, unfrozen: its statistics are those of a pass, and its running "
                "averages move with each. So it is not the training of as many GPUs, as it is "
                "with GN.",
            )


def _batch_that_does_not_split(cfg: CfgNode, num_processes: int) -> Iterator[Problem]:
    batch, per_pass = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.IMS_PER_STEP
    if batch < 1 or batch % num_processes:
        yield Problem(
            True,
            f"SOLVER.IMS_PER_BATCH {batch} cannot be shared equally by {num_processes} processes.",
        )
    elif per_pass < 0 or (per_pass and batch % (per_pass * num_processes)):
        share = batch // num_processes
        divisors = [n for n in range(1, share + 1) if share % n == 0]
        yield Problem(
            True,
            f"SOLVER.IMS_PER_STEP {per_pass} does not divide the {share} images that a process has "
            f"(SOLVER.IMS_PER_BATCH {batch}, processes: {num_processes}). These do: "
            f"{', '.join(map(str, divisors))}; 0 takes them all at once.",
        )
