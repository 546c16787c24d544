from itertools import islice

import pytest
from detectron2.data import get_detection_dataset_dicts

from gn_det.config import ConfigError
from gn_det.data import build_train_stream
from gn_det.engine import load_runnable_config


@pytest.fixture(scope="module")
def make_cfg(digits_options):
    def make(*opts):
        return load_runnable_config("mask_rcnn_R50_gn_all.yaml", [*digits_options, *opts])

    return make


@pytest.fixture(scope="module")
def dicts(digits):
    return get_detection_dataset_dicts(digits[0])


def names(stream, count=6):
    return [[one["file_name"] for one in batch] for batch in islice(stream, count)]


def test_micro_batches_of_the_config(make_cfg, dicts):
    cfg = make_cfg("SOLVER.IMS_PER_BATCH", "4", "SOLVER.IMS_PER_STEP", "2")
    stream = build_train_stream(cfg, dicts)
    assert stream.slots == [0, 1]
    batches = list(islice(stream, 3))
    assert [len(batch) for batch in batches] == [2, 2, 2]
    assert {"image", "instances"} <= set(batches[0][0])
    # the share of a process at once
    assert build_train_stream(make_cfg(), dicts).slots == [0]


def test_seed_decides(make_cfg, dicts):
    stream = build_train_stream(make_cfg(), dicts)
    stream.seek(1, 0)
    first = names(stream)
    stream.seek(2, 0)
    assert names(stream) != first
    stream.seek(1, 2)
    assert names(stream, 4) == first[2:]


@pytest.mark.parametrize(
    "sampler", ["TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"]
)
def test_detectron2s_samplers(make_cfg, dicts, sampler):
    cfg = make_cfg("DATALOADER.SAMPLER_TRAIN", sampler, "DATALOADER.REPEAT_THRESHOLD", "0.9")
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.3  # Detectron2 reads it, and has no default
    stream = build_train_stream(cfg, dicts)
    stream.seek(3, 0)
    seen = [name for batch in names(stream, 15) for name in batch]
    stream.seek(3, 5)
    assert [name for batch in names(stream, 10) for name in batch] == seen[10:]
    if sampler == "RandomSubsetTrainingSampler":
        assert len(set(seen)) == 3


def test_a_batch_that_cannot_be_shared(make_cfg, dicts):
    cfg = make_cfg("SOLVER.IMS_PER_BATCH", "4", "SOLVER.IMS_PER_STEP", "3")
    with pytest.raises(ConfigError, match=r"IMS_PER_STEP 3 .*1, 2, 4"):
        build_train_stream(cfg, dicts)


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda", True), ("cuda:1", True)])
def test_images_for_a_gpu_are_in_page_locked_memory(make_cfg, dicts, monkeypatch, device, pinned):
    asked = []

    class Loader:
        def __init__(self, *args, **kwargs):
            asked.append(kwargs["pin_memory"])

        def __iter__(self):
            return iter(())

    cfg = make_cfg()
    cfg.MODEL.DEVICE = device
    monkeypatch.setattr("gn_det.data.stream.DataLoader", Loader)
    assert not list(build_train_stream(cfg, dicts))
    assert asked == [pinned]
