"""An image that a mapper cannot take, or a worker that dies at it, is named."""

import os
import signal
from itertools import islice

import cv2
import numpy as np
import pytest
from detectron2.data import detection_utils
from detectron2.data.samplers import TrainingSampler

from gn_det.data import DatasetError, MapperError, TrainStream, WorkerDied
from gn_det.data.worker_watch import WorkerWatch


def records(count=6):
    return [{"file_name": f"images/{i}.png", "index": i} for i in range(count)]


def stream(mapper, num_workers, made=None):
    made = made or records()
    return TrainStream(
        made,
        mapper,
        lambda seed: TrainingSampler(len(made), shuffle=False),
        images_per_step=2,
        batch_size=2,
        num_workers=num_workers,
    )


def failing(error, at=3):
    def mapper(record):
        if record.get("index", at) == at:
            raise error
        return record

    return mapper


def run(mapper, num_workers, **kwargs):
    return list(islice(stream(mapper, num_workers, **kwargs), 4))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bug_of_a_mapper_keeps_its_trace_and_names_the_image(num_workers):
    with pytest.raises(MapperError) as caught:
        run(failing(KeyError("bbox")), num_workers)
    assert str(caught.value) == "images/3.png: the mapper failed with KeyError: 'bbox'"
    cause = caught.value.__cause__
    if num_workers:
        assert "in mapper" in str(cause)  # the worker's own trace
        assert "KeyError: 'bbox'" in str(cause)
    else:
        assert isinstance(cause, KeyError)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_image_that_cannot_be_read_is_an_error_of_the_dataset(num_workers, tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    cv2.imwrite(str(good), np.zeros((8, 8, 3), np.uint8))
    bad.write_bytes(good.read_bytes()[:40])
    made = [{"file_name": str(path)} for path in (good, good, bad, good)]

    def mapper(record):
        return detection_utils.read_image(record["file_name"])

    with pytest.raises(DatasetError) as caught:
        run(mapper, num_workers, made=made)
    text = str(caught.value)
    assert text.startswith(f"{bad} cannot be read: ")
    assert "gn-det check-dataset" in text
    assert "\n" not in text


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_a_mapper_says_of_a_dataset_stays(num_workers):
    with pytest.raises(DatasetError, match=r"^images/3\.png: no\s*mask$"):
        run(failing(DatasetError("no\nmask")), num_workers)
    with pytest.raises(DatasetError, match=r"^images/3\.png has no mask$"):
        run(failing(DatasetError("images/3.png has no mask")), num_workers)


def test_a_record_without_a_name_goes_by_its_number():
    with pytest.raises(MapperError, match="^record 0 of the data: the mapper failed"):
        run(failing(ValueError("")), 0, made=[{}])
    with pytest.raises(MapperError, match="^record 1 of"), WorkerWatch(["a", "b"], 0).at(1):
        raise ValueError


@pytest.mark.parametrize(
    ("number", "how", "hint"),
    [
        (signal.SIGKILL, "is killed by signal: Killed", "lower DATALOADER.NUM_WORKERS"),
        (signal.SIGSEGV, "is killed by signal: Segmentation fault", "gn-det check-dataset"),
    ],
)
def test_a_worker_that_dies_names_its_image(number, how, hint):
    def mapper(record):
        if record["index"] == 3:
            os.kill(os.getpid(), number)
            signal.pause()
        return record

    with pytest.raises(WorkerDied) as caught:
        run(mapper, 2)
    text = str(caught.value)
    assert "It was at images/3.png." in text
    assert how in text
    assert hint in text
    assert str(caught.value.__cause__).startswith("DataLoader worker (pid")


def test_a_worker_that_leaves_names_its_image():
    def mapper(record):
        if record["index"] == 3:
            os._exit(7)
        return record

    with pytest.raises(WorkerDied, match=r"with exit code 7 .* It was at images/3\.png\.$"):
        run(mapper, 2)


def test_a_worker_that_dies_later_names_its_last_image():
    def mapper(record):
        return {**record, "pid": os.getpid()}

    loader = iter(stream(mapper, 1))
    pid = next(loader)[0]["pid"]
    os.kill(pid, signal.SIGKILL)
    # PyTorch says so from a signal handler, wherever the main process is
    with pytest.raises((RuntimeError, WorkerDied), match="Killed"):
        list(islice(loader, 50))


def test_died_takes_errors_from_anywhere():
    made = stream(dict, 2)
    iter(made)
    error = RuntimeError("DataLoader worker (pid(s) 1, 2) exited unexpectedly")
    assert "images exited unexpectedly (pid 1, 2). It had not started" in str(
        made.worker_died(error)
    )
    for other in (RuntimeError("out of memory"), ValueError("DataLoader worker (pid 1) exited")):
        assert made.worker_died(other) is None


def test_images_of_a_good_mapper_come_as_they_are():
    assert [r["index"] for b in run(dict, 0) for r in b] == [0, 1, 2, 3, 4, 5, 0, 1]
    assert run(dict, 2) == run(dict, 0)
