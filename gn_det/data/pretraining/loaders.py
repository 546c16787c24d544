"""Loaders of labelled images: an endless one for training, and one for evaluation."""

from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, default_collate

from gn_det.config import images_per_micro_batch
from gn_det.data.stream import SeededDataset, TrainStream
from gn_det.data.worker_watch import WorkerWatch

from .labelled_data import LabelledSplit

__all__ = ["EvalLoader", "build_eval_loader", "build_train_loader"]


def build_train_loader(cfg: CfgNode, split: LabelledSplit) -> TrainStream:
    """Return an endless stream of micro-batches, each a dict of tensors.

    Each epoch has every image once, in a new random order. ``SOLVER.IMS_PER_BATCH`` and
    ``SOLVER.IMS_PER_STEP`` mean the same as in detection.

    Args:
        cfg: A config with gn_det's keys.
        split: The training data.

    Raises:
        ConfigError: The batch cannot be divided among the processes.
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
    """Batches of every image once, as dicts of tensors. The processes share the images.

    Args:
        split: The data.
        batch_size: The number of images in a batch of this process.
        num_workers: The number of processes that load images; 0 loads them in this process.
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
        """Return the number of batches of this process."""
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches of this process.

        Raises:
            DatasetError, MapperError, WorkerDied: An image failed. The message names it, see
                :class:`WorkerWatch`.
        """
        return self._watch.batches(iter(self._loader))


def build_eval_loader(cfg: CfgNode, split: LabelledSplit) -> EvalLoader:
    """Return a loader of every image once.

    A batch has a process's share of ``SOLVER.IMS_PER_BATCH``, but at least 32 images: small batches
    of training save memory, which evaluation does not need.

    Args:
        cfg: A config with gn_det's keys.
        split: The data.
    """
    batch_size = max(32, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size())
    return EvalLoader(split, batch_size, cfg.DATALOADER.NUM_WORKERS)
