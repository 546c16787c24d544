"""Builds the training stream of a detector from a config, or from explicit arguments."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from detectron2.data.build import _train_loader_from_config
from detectron2.utils import comm

from gn_det.config import images_per_micro_batch

from .mapper import WindowedMapper
from .seeding import kept_rng, seed_everything
from .stream import InfiniteSampler, TrainStream

__all__ = ["build_train_stream", "stream_of"]

logger = logging.getLogger(__name__)


def build_train_stream(
    cfg: CfgNode, dicts: list[dict], mapper: Callable[[dict], Any] | None = None
) -> TrainStream:
    """Return the training stream that ``DATALOADER`` and ``SOLVER`` of a config describe.

    For the same seed of the sampler, the micro-batches are those that Detectron2 gives to as many
    GPUs.

    Args:
        cfg: A complete config.
        dicts: Detectron2's dataset dicts.
        mapper: The function from a dict to an input of the model; None means
            :class:`gn_det.data.WindowedMapper`.

    Raises:
        ConfigError: The batch cannot be divided among the processes.
    """
    if mapper is None:
        mapper = WindowedMapper(cfg, is_train=True)
    elif cfg.INPUT.WINDOW and not isinstance(mapper, WindowedMapper):
        logger.warning(
            "INPUT.WINDOW is set, but the mapper is one of your own. Let it read images by "
            "gn_det.data.read_image(file_name, cfg.INPUT.FORMAT, cfg.INPUT.WINDOW): Detectron2's "
            "read_image cuts values off at 255."
        )
    return stream_of(
        dicts,
        mapper,
        lambda: _train_loader_from_config(cfg, mapper, dataset=dicts)["sampler"],
        images_per_step=cfg.SOLVER.IMS_PER_BATCH,
        batch_size=images_per_micro_batch(cfg, comm.get_world_size()),
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        pin_memory=cfg.MODEL.DEVICE.startswith("cuda"),
    )


def stream_of(
    dicts: list[dict],
    mapper: Callable[[dict], Any],
    sampler: Callable[[], InfiniteSampler],
    *,
    aspect_ratio_grouping: bool,
    **kwargs: Any,
) -> TrainStream:
    """Return the training stream of this process.

    Args:
        dicts: Detectron2's dataset dicts.
        mapper: The function from a dict to an input of the model, see
            :class:`gn_det.data.TrainStream`.
        sampler: The function that builds one of Detectron2's training samplers. The sampler takes
            its seed from the random numbers that all processes share.
        aspect_ratio_grouping: Whether a micro-batch has only wide images or only tall ones.
        **kwargs: The other arguments of :class:`gn_det.data.TrainStream`.
    """
    groups = None
    if aspect_ratio_grouping:
        groups = [int(d.get("width", 0) <= d.get("height", 0)) for d in dicts]
    return TrainStream(
        DatasetFromList(dicts, copy=False),
        mapper,
        partial(_build_seeded, sampler),
        rank=comm.get_rank(),
        num_processes=comm.get_world_size(),
        groups=groups,
        **kwargs,
    )


def _build_seeded(build: Callable[[], InfiniteSampler], seed: int) -> InfiniteSampler:
    """Build a sampler whose own seed depends on ``seed``. All processes call this together."""
    with kept_rng():
        seed_everything(seed)
        return build()
