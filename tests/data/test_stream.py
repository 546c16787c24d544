import random
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import TrainingSampler

from gn_det.data import DatasetError, TrainStream
from gn_det.data.stream import MicroBatchSampler


def endless(size):
    def indices():
        while True:
            yield from range(size)

    return indices


def places(sampler, steps):
    return [[place for place, _ in batch] for batch in islice(sampler, steps)]


def test_each_slot_gets_its_share_in_turn():
    sampler = MicroBatchSampler(endless(100), 2, num_slots=3, slots=(0, 2))
    # slot 0 has the places 0, 3, 6, ..., slot 2 has 2, 5, 8, ...
    assert places(sampler, 4) == [[0, 3], [2, 5], [6, 9], [8, 11]]


def test_a_group_goes_together():
    wide = [0, 1, 1, 0, 0, 1]
    sampler = MicroBatchSampler(endless(6), 2, groups=wide)
    assert places(sampler, 4) == [[1, 2], [0, 3], [4, 6], [5, 7]]


@pytest.mark.parametrize("groups", [None, [0, 1, 0, 0, 1, 1, 0]])
@pytest.mark.parametrize("start", [0, 1, 5])
def test_a_later_start_gives_the_same_micro_batches(groups, start):
    options = {"num_slots": 4, "slots": (1, 3), "groups": groups}
    whole = places(MicroBatchSampler(endless(7), 3, **options), 20)
    later = places(MicroBatchSampler(endless(7), 3, **options, start=start), 20 - 2 * start)
    assert later == whole[2 * start :]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_number_of_processes_changes_nothing(processes):
    groups = [0, 1, 0, 0, 1, 1, 0]
    of_slot = {}
    for rank in range(processes):
        slots = range(rank, 4, processes)
        sampler = MicroBatchSampler(endless(7), 2, num_slots=4, slots=slots, groups=groups)
        for step, batch in enumerate(islice(sampler, 5 * len(slots))):
            of_slot.setdefault(slots[step % len(slots)], []).append(batch)
    alone = MicroBatchSampler(endless(7), 2, num_slots=4, slots=range(4), groups=groups)
    wanted = {}
    for step, batch in enumerate(islice(alone, 20)):
        wanted.setdefault(step % 4, []).append(batch)
    assert of_slot == wanted


def noisy(record):
    """A mapper that draws from all three generators."""
    draws = (random.random(), np.random.rand(), torch.rand(()).item())
    return {"index": record["index"], "draws": draws}


def records(count=10):
    return [{"index": i, "width": 2 + i % 2, "height": 2} for i in range(count)]


def stream(mapper=noisy, *, step=0, seed=1, **options):
    made = TrainStream(
        records(),
        mapper,
        lambda seed: TrainingSampler(10, seed=seed),
        **{"images_per_step": 4, "batch_size": 2, **options},
    )
    made.seek(seed, step)
    return made


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_and_their_random_numbers_are_those_of_the_place(num_workers):
    whole = list(islice(stream(), 12))
    later = list(islice(stream(step=3, num_workers=num_workers), 6))
    assert later == whole[6:]
    others = list(islice(stream(seed=2), 12))
    assert others != whole
    assert len({one["draws"] for batch in whole for one in batch}) == 24


def test_the_global_generators_are_left_alone():
    def state():
        return random.getstate()[1], np.random.get_state()[1].tolist(), torch.get_rng_state()

    before = state()
    list(islice(stream(), 4))
    after = state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


@pytest.mark.parametrize("grouping", [False, True])
def test_same_batches_as_detectron2s_loader(grouping):
    wanted = build_detection_train_loader(
        records(),
        mapper=lambda record: record,
        sampler=TrainingSampler(10, seed=7),
        total_batch_size=3,
        aspect_ratio_grouping=grouping,
    )
    groups = [0 if r["width"] > r["height"] else 1 for r in records()] if grouping else None
    options = {"images_per_step": 3, "batch_size": 3, "groups": groups}
    ours = stream(lambda record: record, seed=7, **options)
    assert list(islice(ours, 9)) == list(islice(wanted, 9))


def test_a_record_that_the_mapper_cannot_use_is_replaced():
    def picky(record):
        return record if record["index"] % 5 == 0 else None

    first = list(islice(stream(picky), 10))
    assert {one["index"] for batch in first for one in batch} == {0, 5}
    assert list(islice(stream(picky), 10)) == first


def test_a_mapper_that_uses_none():
    with pytest.raises(DatasetError, match="None for 100 images"):
        next(iter(stream(lambda record: None)))
