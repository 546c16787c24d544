"""The kernels' tests once more in Triton's interpreter, where no GPU is needed.

Triton reads TRITON_INTERPRET when it is imported, so they run in a process of their own.
"""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from gn_det.layers.kernels import support

HERE = Path(__file__).parent


@pytest.mark.skipif(support.INTERPRETED, reason="this is the interpreter")
def test_all_of_this_folder():
    reason = support._why_not_device(torch.device("cuda"))
    if "Triton" in reason:
        pytest.skip(reason)
    triton, numpy = (tuple(map(int, version(p).split(".")[:2])) for p in ("triton", "numpy"))
    if triton < (3, 7) and numpy >= (2, 5):
        pytest.skip("the interpreter of Triton 3.6 has no loops with NumPy 2.5")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "--noconftest", "-m", "not soak", HERE],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
