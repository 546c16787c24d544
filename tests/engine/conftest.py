"""Trainings in processes of their own, as a user starts them."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog

from gn_det.engine.hooks.preemption import SIGNALS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def digits_command(digits, digits_options):
    """Return a function ``(folder, *keys, flags=()) -> command line`` of a training in ``folder``.

    A micro-batch of one image, random sizes and flips, a warm-up, and no evaluation.
    """
    root = Path(MetadataCatalog.get(digits[0]).image_root).parents[1]
    options = [
        *digits_options,
        *("DATASETS.TEST", ()),
        *("INPUT.MIN_SIZE_TRAIN", (48, 64)),
        *("SOLVER.IMS_PER_BATCH", 2),
        *("SOLVER.IMS_PER_STEP", 1),
        *("SOLVER.BASE_LR", 0.01),
        *("SOLVER.WARMUP_ITERS", 4),
        *("SOLVER.CLIP_GLOBAL_NORM", 5.0),
    ]

    def command(folder, *keys, flags=()):
        script = Path(__file__).with_name("train_digits.py")
        start = [sys.executable, "-W", "ignore", script, "--datasets", root, *flags]
        start += ["--config", "mask_rcnn_R50_gn_all.yaml"]
        return [*map(str, [*start, *options, "OUTPUT_DIR", folder, *keys])]

    return command


@pytest.fixture(scope="session")
def start_training(digits_command):
    """Return a function that starts :func:`digits_command`, and returns the process.

    ``within`` is a command that starts a command, such as ``("ip", "netns", "exec", NAME)``.
    """

    def start(folder, *keys, flags=(), within=()):
        return subprocess.Popen(
            [*within, *digits_command(folder, *keys, flags=flags)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def train_digits(start_training):
    """Return a function that runs :func:`digits_command`, and returns the final state."""

    def train(folder, *keys, flags=(), expect=0):
        process = start_training(folder, *keys, flags=flags)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == expect, output[-3000:]
        if expect:
            return output
        return torch.load(Path(folder) / "model_final.pth", weights_only=True)

    return train


@pytest.fixture(scope="session")
def wait_for_a_step():
    """Return a function that waits until a process of :func:`start_training` has done a step."""

    def wait(process):
        for line in process.stdout:
            if line.startswith("step"):
                return
        pytest.fail("it ended before its first step")

    return wait


@pytest.fixture
def send():
    """A function that sends this process a signal; what it does is as before after the test."""
    handlers = {name: signal.getsignal(getattr(signal, name)) for name in SIGNALS}
    yield lambda name="SIGTERM": os.kill(os.getpid(), getattr(signal, name))
    for name, handler in handlers.items():
        signal.signal(getattr(signal, name), handler)


@pytest.fixture
def free_port():
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
