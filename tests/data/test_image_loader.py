from itertools import islice

import pytest
import torch

import gn_det
from gn_det.data import DatasetError, build_eval_loader, build_train_loader
from gn_det.data.image_loader import EpochSampler


class Numbers:
    """Its items are their own number; one of them may be damaged."""

    def __init__(self, size, damaged=None):
        self.size, self.damaged = size, damaged

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index == self.damaged:
            return DatasetError(f"{index}.jpg cannot be read")
        return {"image": torch.full((3, 2, 2), index), "label": index}


def _cfg(*options):
    cfg = gn_det.get_cfg()
    keys = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "SEED", 3]
    cfg.merge_from_list([*keys, "SOLVER.IMS_PER_BATCH", 4, *options])
    return cfg


def test_each_epoch_has_every_image_once_in_an_order_of_its_own():
    numbers = list(islice(EpochSampler(10, seed=0), 30))
    epochs = [numbers[:10], numbers[10:20], numbers[20:]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert numbers == list(islice(EpochSampler(10, seed=0), 30))
    assert numbers != list(islice(EpochSampler(10, seed=1), 30))


@pytest.mark.parametrize("start", [0, 3, 10, 24])
def test_a_run_that_goes_on_gets_what_would_have_come(start):
    sampler = EpochSampler(10, seed=5)
    whole = list(islice(sampler, 40))
    sampler.start = start
    assert list(islice(sampler, 40 - start)) == whole[start:]


def test_processes_share_the_images(monkeypatch):
    whole = list(islice(EpochSampler(10, seed=2), 20))
    monkeypatch.setattr("gn_det.data.image_loader.comm.get_world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr("gn_det.data.image_loader.comm.get_rank", lambda rank=rank: rank)
        shares.append(list(islice(EpochSampler(10, seed=2), 10)))
    assert [n for pair in zip(*shares) for n in pair] == whole
    monkeypatch.setattr("gn_det.data.image_loader.comm.get_rank", lambda: 0)
    assert next(iter(build_train_loader(_cfg(), Numbers(9))))["label"].shape == (2,)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_are_full_and_never_end(workers):
    loader = build_train_loader(_cfg("DATALOADER.NUM_WORKERS", workers), Numbers(6))
    batches = list(islice(loader, 3))
    assert [batch["label"].shape for batch in batches] == [(4,)] * 3
    labels = torch.cat([batch["label"] for batch in batches]).tolist()
    assert sorted(labels[:6]) == sorted(labels[6:]) == list(range(6))
    assert torch.equal(batches[0]["image"][:, 0, 0, 0], batches[0]["label"])


def test_evaluation_has_every_image_once_in_order():
    loader = build_eval_loader(_cfg(), Numbers(6))
    assert len(loader) == 2
    assert [batch["label"].tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_one_line(workers):
    loader = build_eval_loader(_cfg("DATALOADER.NUM_WORKERS", workers), Numbers(6, damaged=5))
    batches = iter(loader)
    assert len(next(batches)["label"]) == 4
    with pytest.raises(DatasetError, match=r"^5\.jpg cannot be read$"):
        next(batches)
