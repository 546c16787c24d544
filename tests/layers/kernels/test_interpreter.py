"""The kernels' tests once more in Triton's interpreter, where no GPU is needed.

Triton reads TRITON_INTERPRET when it is imported, so they run in a process of their own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gn_det.layers.kernels import support, why_not

HERE = Path(__file__).parent


@pytest.mark.skipif(support.INTERPRETED, reason="this is the interpreter")
def test_all_of_this_folder():
    with FakeTensorMode():
        reason = why_not(torch.empty(1, 1, device="cuda"))
    if "Triton" in reason:
        pytest.skip(reason)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "--noconftest", "-m", "not soak", HERE],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
