"""The tests of this folder need an NVIDIA GPU. Each has a twin elsewhere that runs on a CPU."""

from pathlib import Path

import pytest
import torch

from benchmarks.workload import Setting, Workload

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="there is no GPU"))


@pytest.fixture(scope="session")
def small():
    """A batch of two images and R50-FPN: large enough for memory to be that of activations."""
    return Workload(Setting(height=480, width=640, rois=128))
