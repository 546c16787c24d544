"""Loaders of labelled images: an endless one for training, which can start at any step."""

import itertools
from collections.abc import Iterable, Iterator

import torch
from detectron2.config import CfgNode
from detectron2.data.build import worker_init_reset_seed
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from .errors import DatasetError
from .seeding import choose_seed

__all__ = ["EpochSampler", "LabelledLoader", "build_eval_loader", "build_train_loader"]


class EpochSampler(Sampler[int]):
    """Numbers without end: all images in one random order, in another one, and so on.

    The order of an epoch follows from seed and epoch alone, so that a run that goes on sees the
    images that it has not seen yet. Several processes share the numbers, each its own.

    Args:
        size: images.
        seed: of the orders, the same in all processes.

    Attributes:
        start: numbers to leave out at the beginning, over all processes.
    """

    def __init__(self, size: int, seed: int):
        self.size, self.seed, self.start = size, seed, 0

    def __iter__(self) -> Iterator[int]:
        """Yield this process's numbers."""
        yield from itertools.islice(self._numbers(), comm.get_rank(), None, comm.get_world_size())

    def _numbers(self) -> Iterator[int]:
        first, skipped = divmod(self.start, self.size)
        for epoch in itertools.count(first):
            rng = torch.Generator().manual_seed((self.seed + epoch) % 2**63)
            order = torch.randperm(self.size, generator=rng).tolist()
            yield from order[skipped:]
            skipped = 0


class LabelledLoader:
    """A DataLoader of dicts that raises the first DatasetError that comes in place of one.

    Args:
        dataset: its items are dicts of tensors and numbers, or DatasetErrors.
        batch_size: of this process.
        sampler: which items, in which order.
        cfg: for ``DATALOADER.NUM_WORKERS`` and ``MODEL.DEVICE``.
        drop_last: leave out a last batch that is not full.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        sampler: Sampler[int],
        cfg: CfgNode,
        drop_last: bool = False,
    ):
        self.sampler = sampler
        self._loader = DataLoader(
            dataset,
            batch_size,
            sampler=sampler,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            collate_fn=_collate,
            drop_last=drop_last,
            pin_memory=cfg.MODEL.DEVICE.startswith("cuda"),
            worker_init_fn=worker_init_reset_seed,
        )

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield batches.

        Raises:
            DatasetError: an item of the dataset is one.
        """
        for batch in self._loader:
            if isinstance(batch, DatasetError):
                raise batch
            yield batch


def _collate(items: Iterable[dict | DatasetError]) -> dict[str, torch.Tensor] | DatasetError:
    error = next((item for item in items if isinstance(item, DatasetError)), None)
    return default_collate(items) if error is None else error


def build_train_loader(cfg: CfgNode, dataset: Dataset) -> LabelledLoader:
    """Return an endless loader of ``SOLVER.IMS_PER_BATCH`` images over all processes.

    Its ``sampler.start`` may be set before it is read.
    """
    seed = choose_seed(cfg.SEED)
    batch_size = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    return LabelledLoader(dataset, batch_size, EpochSampler(len(dataset), seed), cfg, True)


def build_eval_loader(cfg: CfgNode, dataset: Dataset) -> LabelledLoader:
    """Return a loader of each image once, shared by all processes."""
    batch_size = max(1, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size())
    return LabelledLoader(dataset, batch_size, InferenceSampler(len(dataset)), cfg)
