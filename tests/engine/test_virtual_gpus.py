"""Accumulated micro-batches train as many GPUs would: whole trainings, end to end.

In float64: in float32, rounding decides on near ties between boxes after two or three steps.
"""

import pytest

STEPS = (
    *("SOLVER.MAX_ITER", 10, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.IMS_PER_STEP", 1),
    *("MODEL.PROPOSAL_GENERATOR.NAME", "FixedRPN"),
)


@pytest.fixture(scope="module")
def alone(train_digits, tmp_path_factory):
    """The final state of one process with four virtual GPUs."""
    return train_digits(tmp_path_factory.mktemp("alone") / "run", *STEPS, flags=["--double"])


@pytest.mark.parametrize("processes", [2, 4])
def test_same_weights_as_distributed_data_parallel(train_digits, alone, tmp_path, processes):
    flags = ["--double", "--num-gpus", processes, "--dist-url", "auto"]
    shared = train_digits(tmp_path / "run", *STEPS, flags=flags)
    for name, a in alone["model"].items():
        assert (a - shared["model"][name]).norm() <= 1e-10 * a.norm(), name
    assert shared["trainer"]["iteration"] == alone["trainer"]["iteration"] == 9
