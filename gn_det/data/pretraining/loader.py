"""Loaders of labelled images: an endless one for training, which can start at any step."""

from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, default_collate

from gn_det.config import images_per_micro_batch
from gn_det.data.stream import SeededDataset, TrainStream
from gn_det.data.worker_watch import WorkerWatch

from .labelled import LabelledSplit

__all__ = ["EvalLoader", "build_eval_loader", "build_train_loader"]


def build_train_loader(cfg: CfgNode, split: LabelledSplit) -> TrainStream:
    """Return a stream of micro-batches as dicts of tensors: every image once, and so on.

    Each time through the images is in another random order. ``SOLVER.IMS_PER_BATCH`` and
    ``IMS_PER_STEP`` as in detection.

    Raises:
        ConfigError: a batch that cannot be shared.
    """
    world_size = comm.get_world_size()
    return TrainStream(
        split.records,
        split.mapper,
        lambda seed: TrainingSampler(len(split), seed=seed),
        images_per_step=cfg.SOLVER.IMS_PER_BATCH,
        batch_size=images_per_micro_batch(cfg, world_size),
        rank=comm.get_rank(),
        num_processes=world_size,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate=default_collate,
        pin_memory=cfg.MODEL.DEVICE.startswith("cuda"),
    )


class EvalLoader:
    """Batches of each image once, as dicts of tensors, shared by all processes.

    Args:
        split: of the data.
        batch_size: images in a batch of this process.
        num_workers: processes that load images; 0 loads them in this one.
    """

    def __init__(self, split: LabelledSplit, batch_size: int, num_workers: int = 0):
        self._watch = WorkerWatch(split.records, num_workers)
        self._loader = DataLoader(
            SeededDataset(split.records, split.mapper, 0, self._watch),
            batch_size,
            sampler=[(index, index) for index in InferenceSampler(len(split))],
            num_workers=num_workers,
            collate_fn=default_collate,
        )

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield batches.

        Raises, as it goes on:
            DatasetError, MapperError, WorkerDied: they name the image, see :class:`WorkerWatch`.
        """
        return self._watch.batches(iter(self._loader))


def build_eval_loader(cfg: CfgNode, split: LabelledSplit) -> EvalLoader:
    """Return a loader of each image once, in batches of a process's share of IMS_PER_BATCH.

    Where this is less than 32 they have 32: what small batches of training are for does not matter.
    """
    batch_size = max(32, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size())
    return EvalLoader(split, batch_size, cfg.DATALOADER.NUM_WORKERS)
