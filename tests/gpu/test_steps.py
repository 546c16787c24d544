"""Twin: tests/benchmarks/test_gpu.py, tests/modeling/test_activation_checkpointing.py."""

import gc

import pytest
import torch

from benchmarks.gpu.device import PeakMemory, count_synchronizations, held_bytes
from benchmarks.gpu.equality import compare_modes
from benchmarks.gpu.steps import by_trainer
from benchmarks.train import TrainStep
from benchmarks.variants import VARIANTS
from gn_det.engine.memory_estimate import estimate

MODES = ("standard", "lean", "minimal")


@pytest.fixture(scope="module")
def memory(workload):
    """Bytes that each mode keeps, and its peak in a training step."""
    found = {}
    TrainStep(workload, VARIANTS["standard-bf16-channels_last"])()  # workspaces of libraries
    for mode in MODES:
        gc.collect()
        peak = PeakMemory()
        step = TrainStep(workload, VARIANTS[f"{mode}-bf16-channels_last"])
        for _ in range(2):
            step()
        step.optimizer.zero_grad()
        kept = held_bytes(step.forward)
        peak.restart()
        step()
        found[mode] = {"kept": kept, **peak.read()}
        del step
    return found


def test_modes_save_memory(memory):
    for key in ("kept", "peak_allocated"):
        assert memory["minimal"][key] < memory["lean"][key] < memory["standard"][key]


@pytest.mark.parametrize("mode", MODES)
def test_estimate_is_within_a_tenth(workload, memory, mode):
    cfg = VARIANTS[f"{mode}-bf16-channels_last"].config(workload.cfg)
    of = workload.setting
    found = estimate(cfg, of.images, of.height, of.width)
    without_workspaces = found.parameters + found.optimizer + found.peak
    assert without_workspaces == pytest.approx(memory[mode]["peak_allocated"], rel=0.1)


@pytest.mark.parametrize("precision", ["fp32", "bf16-channels_last"])
def test_losses_are_the_same_in_every_mode(small, precision):
    found = compare_modes(small, precision)
    for mode in ("lean", "minimal"):
        assert found[mode]["losses_equal"]
        # sums in any order; that of a second run of the same differs as much
        assert found[mode]["worst"] < 0.05


def test_deterministic_algorithms_give_the_same_bits(small):
    torch.use_deterministic_algorithms(True)
    try:
        found = compare_modes(small, "bf16-channels_last")
    finally:
        torch.use_deterministic_algorithms(False)
    for row in found.values():
        assert row["equal"] == row["gradients"]


def test_a_step_waits_for_the_gpu_thrice_at_most(small):
    run = by_trainer(TrainStep(small, VARIANTS["lean-bf16-channels_last"]))
    run()
    found = count_synchronizations(run)
    assert found["detectron2"] > 0  # they are seen
    assert found["gn_det"] <= 3, found["lines"]
