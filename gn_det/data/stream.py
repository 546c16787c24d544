"""The endless stream of training images, which can be entered at any place.

An image's place in the stream decides which image it is, how it is augmented and which virtual GPU
gets it. A virtual GPU is what a GPU would be if each had one micro-batch a step: of V of them,
number v gets the places v, v + V, v + 2V, ..., as with Detectron2. How many processes there really
are changes nothing, nor does a run that was stopped in between.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .errors import DatasetError
from .seeding import kept_rng, seed_cpu
from .worker_watch import WorkerDied, WorkerWatch

__all__ = ["MicroBatchSampler", "SeededDataset", "TrainStream"]

MAX_TRIES = 100  # mapped images in a row that are None


class MicroBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yields micro-batches of ``(place, index)``, in turn for each virtual GPU of this process.

    Args:
        indices: returns the endless stream of indices, the same in all processes.
        batch_size: images in a micro-batch.
        num_gpus: V, virtual GPUs of all processes together.
        mine: the virtual GPUs of this process.
        groups: a number for each index; a micro-batch is of one group. None: of any images.
        start: steps to leave out; a step takes one micro-batch of each virtual GPU.
    """

    def __init__(
        self,
        indices: Callable[[], Iterator[int]],
        batch_size: int,
        *,
        num_gpus: int = 1,
        mine: Sequence[int] = (0,),
        groups: Sequence[int] | None = None,
        start: int = 0,
    ):
        self.indices, self.batch_size, self.groups = indices, batch_size, groups
        self.num_gpus, self.mine, self.start = num_gpus, mine, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Go through the stream; with groups from its beginning, which decides what comes later."""
        ready: dict[int, deque] = {gpu: deque() for gpu in self.mine}
        filling: dict[tuple[int, int], list] = {}
        stream = enumerate(self.indices())
        first = 0
        if self.groups is None:  # a step takes one place after the other
            first = self.start
            stream = islice(stream, first * self.batch_size * self.num_gpus, None)
        for step in count(first):
            for gpu in self.mine:
                while not ready[gpu]:
                    place, index = next(stream)
                    of = place % self.num_gpus
                    if of not in ready:
                        continue
                    group = self.groups[index] if self.groups is not None else 0
                    batch = filling.setdefault((of, group), [])
                    batch.append((place, index))
                    if len(batch) == self.batch_size:
                        ready[of].append(filling.pop((of, group)))
                batch = ready[gpu].popleft()
                if step >= self.start:
                    yield batch


class SeededDataset(Dataset):
    """Maps a dataset's records; the random numbers of a place are its own.

    Args:
        records: the dataset.
        mapper: ``record -> what the model gets``, or None for a record that it cannot use: then
            another one is drawn.
        seed: of the run.
        watch: is told which record is at work.
    """

    def __init__(
        self,
        records: Sequence[Any],
        mapper: Callable[[Any], Any],
        seed: int,
        watch: WorkerWatch,
    ):
        self.records, self.mapper, self.seed, self.watch = records, mapper, seed, watch

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Any]:
        """Return the mapped records of a batch of ``(place, index)``."""
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
    """An endless loader of micro-batches that knows its place.

    Args:
        records: the dataset's dicts, or any sequence that Detectron2's ``DatasetFromList`` makes.
        mapper: see :class:`SeededDataset`. Its random numbers are to come from Python's, numpy's or
            torch's global generator.
        sampler: ``seed -> sampler``, one of Detectron2's training samplers.
        images_per_step: of all processes together.
        batch_size: images in a micro-batch, a divisor of ``images_per_step``.
        rank: of this process.
        num_processes: a divisor of the number of virtual GPUs, ``images_per_step / batch_size``.
        groups: see :class:`MicroBatchSampler`.
        seed: of the run.
        num_workers: processes that load images; 0 loads them in this one.
        collate: makes a micro-batch of a list of what the mapper gave; default: the list.
        pin_memory: let tensors lie in memory that a GPU can copy from at once.

    Attributes:
        mine: the virtual GPUs of this process, in the order of their micro-batches.
    """

    def __init__(
        self,
        records: Sequence[Any],
        mapper: Callable[[Any], Any],
        sampler: Callable[[int], Sampler],
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
        self.num_gpus = images_per_step // batch_size
        self.mine = list(range(rank, self.num_gpus, num_processes))
        self.groups, self.seed, self.num_workers = groups, seed, num_workers
        self.collate, self.pin_memory = collate or _as_it_is, pin_memory
        self.step = 0
        self._watch = WorkerWatch(records, 0)

    def __iter__(self) -> Iterator[Any]:
        """Begin where :meth:`seek` said, by default at the beginning.

        Raises, as it goes on:
            DatasetError, MapperError, WorkerDied: they name the image, see :class:`WorkerWatch`.
        """
        # all of Detectron2's training samplers have this stream, of which a process takes its share
        indices = self.sampler(self.seed)._infinite_indices
        batches = MicroBatchSampler(
            indices,
            self.batch_size,
            num_gpus=self.num_gpus,
            mine=self.mine,
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
            generator=torch.Generator(),  # it would draw from the global one
        )
        return self._watch.batches(iter(loader))

    def seek(self, seed: int, step: int) -> None:
        """Let the next loop over the stream begin where the run of ``seed`` has it at ``step``."""
        self.seed, self.step = seed, step

    def worker_died(self, error: BaseException) -> WorkerDied | None:
        """Return what a PyTorch error about dead workers means; None for any other error.

        It need not come out of the loop over the stream: PyTorch raises it wherever the process is.
        """
        return self._watch.died(error)


def _as_it_is(batch: list[Any]) -> list[Any]:
    return batch
