"""Training data as Detectron2 reads them, as a stream that can be entered at any place."""

from collections.abc import Callable
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, DatasetMapper
from detectron2.data.build import _train_loader_from_config
from detectron2.utils import comm
from torch.utils.data import Sampler

from gn_det.config import images_per_micro_batch

from .seeding import kept_rng, seed_everything
from .stream import TrainStream

__all__ = ["build_train_stream", "stream_of"]


def build_train_stream(
    cfg: CfgNode, dicts: list[dict], mapper: Callable[[dict], Any] | None = None
) -> TrainStream:
    """Return the stream of ``dicts`` as the config's ``DATALOADER`` and ``SOLVER`` say.

    Micro-batches are what Detectron2 would give to as many GPUs, for the same seed of the sampler.

    Args:
        cfg: a finished config.
        dicts: Detectron2's dataset dicts.
        mapper: default: Detectron2's ``DatasetMapper``.

    Raises:
        ConfigError: a batch that cannot be shared.
    """
    mapper = mapper or DatasetMapper(cfg, is_train=True)
    return stream_of(
        dicts,
        mapper,
        lambda: _train_loader_from_config(cfg, mapper, dataset=dicts)["sampler"],
        images_per_step=cfg.SOLVER.IMS_PER_BATCH,
        batch_size=images_per_micro_batch(cfg, comm.get_world_size()),
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def stream_of(
    dicts: list[dict],
    mapper: Callable[[dict], Any],
    sampler: Callable[[], Sampler],
    *,
    aspect_ratio_grouping: bool,
    **kwargs: Any,
) -> TrainStream:
    """Return the stream of ``dicts`` for this process.

    Args:
        dicts: Detectron2's dataset dicts.
        mapper: see :class:`gn_det.data.TrainStream`.
        sampler: builds one of Detectron2's, which takes its seed from the random numbers of all
            processes.
        aspect_ratio_grouping: let a micro-batch have wide images alone, or none.
        **kwargs: of :class:`gn_det.data.TrainStream`.
    """
    groups = None
    if aspect_ratio_grouping:
        groups = [int(d.get("width", 0) <= d.get("height", 0)) for d in dicts]
    return TrainStream(
        DatasetFromList(dicts, copy=False),
        mapper,
        partial(_seeded, sampler),
        rank=comm.get_rank(),
        num_processes=comm.get_world_size(),
        groups=groups,
        **kwargs,
    )


def _seeded(build: Callable[[], Sampler], seed: int) -> Sampler:
    """Build a sampler whose own seed follows from ``seed``. Called in all processes together."""
    with kept_rng():
        seed_everything(seed)
        return build()
