from functools import partial

import torch

from benchmarks.peak import peak_bytes

MB = 10**6


def test_peak_is_what_the_work_adds_to_a_fresh_process():
    mine = torch.ones(150 * MB)  # 600 MB of this process, which must not count
    # a work that makes 200 MB and lets them go; where there is a GPU, in the CPU's memory too
    peak = peak_bytes(partial, torch.ones, 50 * MB)
    assert mine.numel() == 150 * MB
    assert 200 * MB <= peak < 400 * MB
