"""Devices that a run cannot have, as a machine with GPUs would show them."""

import argparse

import pytest
import torch

from gn_det.config import ConfigError
from gn_det.engine import run_lazy, setup
from gn_det.engine.device import use_device


@pytest.fixture
def current():
    """Return the devices that became the current one."""
    return []


@pytest.fixture
def machine(monkeypatch, tiny_cfg, current):
    """Return a function that makes a config on a machine with GPUs, in a run of processes."""

    def make(device, gpus, processes=1, backend="nccl"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", current.append)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: processes)
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: processes > 1)
        monkeypatch.setattr(torch.distributed, "get_backend", lambda: backend)
        return tiny_cfg("MODEL.DEVICE", device)

    return make


@pytest.mark.parametrize(
    ("device", "gpus", "processes", "backend"),
    [
        ("cpu", 0, 1, "no group"),
        ("cpu", 2, 1, "no group"),
        ("cpu", 0, 2, "gloo"),
        ("cuda", 1, 1, "no group"),
        ("cuda:1", 2, 1, "no group"),
        ("cuda", 2, 2, "nccl"),
    ],
)
def test_devices_of_a_run(machine, current, device, gpus, processes, backend):
    use_device(machine(device, gpus, processes, backend))
    assert current == ([torch.device("cuda:1")] if device == "cuda:1" else [])


@pytest.mark.parametrize(
    ("device", "gpus", "processes", "words"),
    [
        ("cuda:2", 2, 1, "MODEL.DEVICE is cuda:2, but PyTorch finds 2 GPUs, .* from 0"),
        ("cuda", 0, 1, "MODEL.DEVICE is cuda, but PyTorch finds 0 GPUs"),
        ("cuda:0", 2, 2, "MODEL.DEVICE is cuda:0, but each of the 2 processes .* Set .* cuda;"),
        ("cpu", 2, 2, "MODEL.DEVICE is cpu, but the 2 processes .*NCCL.*CUDA_VISIBLE_DEVICES="),
    ],
)
def test_devices_that_cannot_be(machine, device, gpus, processes, words):
    with pytest.raises(ConfigError, match=words):
        use_device(machine(device, gpus, processes))


@pytest.mark.parametrize(
    ("start", "config", "opts", "words"),
    [
        (setup, "mask_rcnn_R50_gn_all.yaml", ["MODEL.DEVICE", "cuda:9"], "MODEL.DEVICE is cuda:9"),
        (
            run_lazy,
            "photo_digits_mask_rcnn_R18_gn_all.py",
            ["train.device=cuda:9"],
            "train.device is cuda:9",
        ),
    ],
)
def test_before_any_work(machine, start, config, opts, words):
    machine("cpu", gpus=2)
    args = argparse.Namespace(config_file=config, opts=opts, resume=False, eval_only=True)
    with pytest.raises(ConfigError, match=words):
        start(args)
