import random
from itertools import islice

import pytest
import torch

import gn_det
from gn_det.data import DatasetError, LabelledSplit, build_eval_loader, build_train_loader


def _cfg(*options):
    cfg = gn_det.get_cfg()
    keys = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0]
    cfg.merge_from_list([*keys, "SOLVER.IMS_PER_BATCH", 4, *options])
    return cfg


def _numbers(size, damaged=None):
    """A split whose images are full of their own number; one of them may be damaged."""

    def mapper(record):
        if record["label"] == damaged:
            raise DatasetError(f"{damaged}.jpg cannot be read")
        image = torch.full((3, 2, 2), record["label"])
        return {"image": image, "label": record["label"], "noise": random.random()}

    return LabelledSplit([{"label": index} for index in range(size)], mapper, size)


def _labels(loader, count):
    return [batch["label"].tolist() for batch in islice(loader, count)]


@pytest.mark.parametrize("workers", [0, 2])
def test_each_epoch_has_every_image_once_in_an_order_of_its_own(workers):
    loader = build_train_loader(_cfg("DATALOADER.NUM_WORKERS", workers), _numbers(10))
    batches = list(islice(loader, 10))
    assert [batch["image"].shape for batch in batches] == [(4, 3, 2, 2)] * 10
    assert all(torch.equal(batch["image"][:, 0, 0, 0], batch["label"]) for batch in batches)
    labels = torch.cat([batch["label"] for batch in batches]).tolist()
    epochs = [tuple(labels[start : start + 10]) for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(epochs)) == 4


@pytest.mark.parametrize("start", [1, 2, 3, 7])
def test_a_run_that_goes_on_gets_what_would_have_come(start):
    loader = build_train_loader(_cfg(), _numbers(10))
    loader.seek(5, 0)
    whole = list(islice(loader, 10))
    loader.seek(5, start)
    for batch, expected in zip(islice(loader, 10 - start), whole[start:]):
        assert batch["label"].tolist() == expected["label"].tolist()
        assert batch["noise"].tolist() == expected["noise"].tolist()
    loader.seek(6, 0)
    assert _labels(loader, 10) != [batch["label"].tolist() for batch in whole]


def test_processes_and_micro_batches_share_an_epoch(monkeypatch):
    split = _numbers(8)
    monkeypatch.setattr("gn_det.data.pretraining.loaders.comm.get_world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr("gn_det.data.pretraining.loaders.comm.get_rank", lambda rank=rank: rank)
        loader = build_train_loader(_cfg("SOLVER.IMS_PER_STEP", 1), split)
        shares.append(_labels(loader, 4))  # two steps of two micro-batches
        assert all(len(labels) == 1 for labels in shares[-1])
    monkeypatch.undo()
    one_process = build_train_loader(_cfg("SOLVER.IMS_PER_STEP", 1), split)
    alone = _labels(one_process, 8)
    # micro-batches 0 and 2 of a step are the first process's
    assert shares == [[alone[i] for i in (0, 2, 4, 6)], [alone[i] for i in (1, 3, 5, 7)]]
    assert sorted(sum(alone, [])) == list(range(8))


def test_evaluation_has_every_image_once_in_order():
    loader = build_eval_loader(_cfg(), _numbers(34))
    assert len(loader) == 2
    assert [batch["label"].tolist() for batch in loader] == [[*range(32)], [32, 33]]
    large = build_eval_loader(_cfg("SOLVER.IMS_PER_BATCH", 34), _numbers(34))
    assert [batch["label"].tolist() for batch in large] == [[*range(34)]]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_one_line(workers):
    cfg = _cfg("DATALOADER.NUM_WORKERS", workers)
    batches = iter(build_eval_loader(cfg, _numbers(40, damaged=35)))
    assert len(next(batches)["label"]) == 32
    with pytest.raises(DatasetError, match=r"35\.jpg cannot be read$"):
        next(batches)
    with pytest.raises(DatasetError, match=r"5\.jpg cannot be read$"):
        list(islice(build_train_loader(cfg, _numbers(6, damaged=5)), 2))
