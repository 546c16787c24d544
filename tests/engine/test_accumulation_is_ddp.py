"""Accumulated micro-batches train as many GPUs would: whole trainings, end to end.

In float64: in float32, rounding decides on near ties between boxes after two or three steps.
"""

import pytest

STEPS = (
    *("SOLVER.MAX_ITER", 10, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.IMS_PER_STEP", 1),
    *("MODEL.PROPOSAL_GENERATOR.NAME", "FixedRPN", "SOLVER.EMA_DECAY", 0.8),
)


@pytest.fixture(scope="module")
def alone(train_digits, tmp_path_factory):
    """The final state of one process that accumulates four micro-batches."""
    return train_digits(tmp_path_factory.mktemp("alone") / "run", *STEPS, flags=["--double"])


def average_of(state):
    return state["trainer"]["_trainer"]["average"]


@pytest.mark.parametrize("processes", [2, 4])
def test_same_weights_as_distributed_data_parallel(train_digits, alone, tmp_path, processes):
    flags = ["--double", "--num-gpus", processes, "--dist-url", "auto"]
    shared = train_digits(tmp_path / "run", *STEPS, flags=flags)
    # the average of the weights, and the weights
    for part in (lambda state: state["model"], lambda state: average_of(state)["other"]):
        assert part(alone).keys() == part(shared).keys()
        for name, a in part(alone).items():
            assert (a - part(shared)[name]).norm() <= 1e-10 * a.norm(), name
    assert shared["trainer"]["iteration"] == alone["trainer"]["iteration"] == 9
