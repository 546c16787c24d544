"""The tests of this folder need an NVIDIA GPU. Each has a twin elsewhere that runs on a CPU."""

import os
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.equality import SETTING
from benchmarks.gpu.steps import setting
from benchmarks.workload import Workload

# before the first product on a GPU, for deterministic algorithms
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="there is no GPU"))


@pytest.fixture(scope="session")
def workload():
    """R50-FPN and a batch of two large images: memory is that of activations."""
    return Workload(setting(dry=False, images=2))


@pytest.fixture(scope="session")
def small():
    """A small model and a batch of two small images."""
    return Workload(SETTING)
