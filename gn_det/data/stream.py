"""The endless stream of training images, which can start at any step.

The place of an image in the stream decides which image it is, how it is augmented and which
micro-batch it belongs to. Each step has V micro-batches, one for each of V slots. Slot v gets the
places v, v + V, v + 2V, ..., like GPU v of V GPUs with Detectron2. The micro-batches do not depend
on the number of processes, and a resumed run gets those of a run that was never stopped.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .errors import DatasetError
from .seeding import kept_rng, seed_cpu
from .worker_watch import Records, WorkerDied, WorkerWatch

__all__ = ["InfiniteSampler", "MicroBatchSampler", "SeededDataset", "TrainStream"]

MAX_TRIES = 100  # images in a row for which the mapper returns None


class InfiniteSampler(Protocol):
    """What all of Detectron2's training samplers have: the stream that the processes share."""

    def _infinite_indices(self) -> Iterator[int]: ...


class MicroBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yields micro-batches of ``(place, index)`` for the slots of this process in turn.

    Args:
        indices: The function that returns the endless stream of indices, the same in all processes.
        batch_size: The number of images in a micro-batch.
        num_slots: The number V of micro-batches in a step, of all processes together.
        slots: The slots of this process, each in 0 to V - 1.
        groups: A number for each index. All images of a micro-batch have the same number. None
            allows all images together.
        start: The number of steps to skip.
    """

    def __init__(
        self,
        indices: Callable[[], Iterator[int]],
        batch_size: int,
        *,
        num_slots: int = 1,
        slots: Sequence[int] = (0,),
        groups: Sequence[int] | None = None,
        start: int = 0,
    ):
        self.indices, self.batch_size, self.groups = indices, batch_size, groups
        self.num_slots, self.slots, self.start = num_slots, slots, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the micro-batches from step ``start`` on.

        With groups, the whole stream before that step is read, because it decides what comes later.
        """
        ready: dict[int, deque] = {slot: deque() for slot in self.slots}
        filling: dict[tuple[int, int], list] = {}
        stream: Iterator[tuple[int, int]] = enumerate(self.indices())
        first = 0
        if self.groups is None:  # the places of a step are consecutive
            first = self.start
            stream = islice(stream, first * self.batch_size * self.num_slots, None)
        for step in count(first):
            for slot in self.slots:
                while not ready[slot]:
                    place, index = next(stream)
                    owner = place % self.num_slots
                    if owner not in ready:
                        continue
                    group = self.groups[index] if self.groups is not None else 0
                    batch = filling.setdefault((owner, group), [])
                    batch.append((place, index))
                    if len(batch) == self.batch_size:
                        ready[owner].append(filling.pop((owner, group)))
                batch = ready[slot].popleft()
                if step >= self.start:
                    yield batch


class SeededDataset(Dataset):
    """Maps the records of a dataset. Each place in the stream has its own random numbers.

    Args:
        records: The dataset.
        mapper: The function from a record to an input of the model. It returns None for a record
            that it cannot use; then another one is drawn.
        seed: The seed of the run.
        watch: The object that notes which record a process works on.
    """

    def __init__(
        self,
        records: Records,
        mapper: Callable[[Any], Any],
        seed: int,
        watch: WorkerWatch,
    ):
        self.records, self.mapper, self.seed, self.watch = records, mapper, seed, watch

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Any]:
        """Return the mapped records of a batch.

        Args:
            keys: The pairs ``(place, index)`` of the batch.
        """
        with kept_rng():
            return [self._map(place, index) for place, index in keys]

    def _map(self, place: int, index: int) -> Any:
        seed_cpu(self.seed, place)
        for _ in range(MAX_TRIES):
            with self.watch.at(index):
                mapped = self.mapper(self.records[index])
            if mapped is not None:
                return mapped
            index = int(torch.randint(len(self.records), ()))
        raise DatasetError(f"The mapper returned None for {MAX_TRIES} images in a row.")


class TrainStream:
    """An endless loader of micro-batches that can start at any step.

    Args:
        records: The dataset's dicts, or any sequence such as Detectron2's ``DatasetFromList``.
        mapper: The function from a record to an input of the model, see :class:`SeededDataset`. It
            takes its random numbers from Python's, numpy's or torch's global generator.
        sampler: The function from a seed to one of Detectron2's training samplers.
        images_per_step: The number of images in a step, of all processes together.
        batch_size: The number of images in a micro-batch, a divisor of ``images_per_step``.
        rank: The rank of this process.
        num_processes: The number of processes, a divisor of ``images_per_step / batch_size``.
        groups: The group of each image, see :class:`MicroBatchSampler`.
        seed: The seed of the run.
        num_workers: The number of processes that load images; 0 loads them in this process.
        collate: The function from a list of mapped records to a micro-batch; None keeps the list.
        pin_memory: Whether tensors are in page-locked memory, from which a GPU copies faster.

    Attributes:
        slots: The slots of this process, in the order of their micro-batches.
    """

    def __init__(
        self,
        records: Records,
        mapper: Callable[[Any], Any],
        sampler: Callable[[int], InfiniteSampler],
        *,
        images_per_step: int,
        batch_size: int,
        rank: int = 0,
        num_processes: int = 1,
        groups: Sequence[int] | None = None,
        seed: int = 0,
        num_workers: int = 0,
        collate: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
    ):
        self.records, self.mapper, self.sampler = records, mapper, sampler
        self.batch_size = batch_size
        self.num_slots = images_per_step // batch_size
        self.slots = list(range(rank, self.num_slots, num_processes))
        self.groups, self.seed, self.num_workers = groups, seed, num_workers
        self.collate, self.pin_memory = collate or _keep_list, pin_memory
        self.step = 0
        self._watch = WorkerWatch(records, 0)

    def __iter__(self) -> Iterator[Any]:
        """Yield micro-batches from the step of :meth:`seek` on, by default from the first one.

        Raises:
            DatasetError, MapperError, WorkerDied: An image failed. The message names it, see
                :class:`WorkerWatch`.
        """
        batches = MicroBatchSampler(
            self.sampler(self.seed)._infinite_indices,
            self.batch_size,
            num_slots=self.num_slots,
            slots=self.slots,
            groups=self.groups,
            start=self.step,
        )
        self._watch = WorkerWatch(self.records, self.num_workers)
        loader = DataLoader(
            SeededDataset(self.records, self.mapper, self.seed, self._watch),
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=self.collate,
            pin_memory=self.pin_memory,
            generator=torch.Generator(),  # without it, the loader draws from the global one
        )
        return self._watch.batches(iter(loader))

    def seek(self, seed: int, step: int) -> None:
        """Let the next loop over the stream start at another step.

        Args:
            seed: The seed of the run.
            step: The step, from 0.
        """
        self.seed, self.step = seed, step

    def worker_died(self, error: BaseException) -> WorkerDied | None:
        """Return the error that names the image, for a PyTorch error about a dead worker.

        Args:
            error: Any error of the run. PyTorch raises the one about a dead worker wherever the
                process is, not only in the loop over the stream.

        Returns:
            The error; None where ``error`` is another one.
        """
        return self._watch.died(error)


def _keep_list(batch: list[Any]) -> list[Any]:
    return batch
