import json
import math
import multiprocessing
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from gn_det.engine.step_report import StepReport, StepReports


def test_means_over_micro_batches():
    losses = [{"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, {"a": torch.tensor(3.0)}]
    mine = StepReports().exchange(losses, torch.tensor(5.0), 0.25, True)
    assert mine == [StepReport({"a": 2.0, "b": 1.0}, 5.0, 0.25, True)]


def test_names_may_change_from_step_to_step():
    reports, norm = StepReports(), torch.tensor(1.0)
    reports.exchange([{"a": torch.tensor(1.0)}], norm, 0.0, False)
    (second,) = reports.exchange([{"b": torch.tensor(2.0)}], norm, 0.0, False)
    assert second.losses == {"a": 0.0, "b": 2.0}


def test_types_and_shapes():
    losses = {
        "double": torch.tensor(1e300, dtype=torch.float64),
        "half": torch.tensor([1.5], dtype=torch.bfloat16, requires_grad=True),
    }
    (mine,) = StepReports().exchange([losses], torch.tensor(3.0, dtype=torch.float64), 0.0, False)
    assert mine.losses == {"double": 1e300, "half": 1.5}
    norm = torch.tensor(3.0, dtype=torch.bfloat16)
    (mine,) = StepReports().exchange([{"a": torch.tensor(1.001)}], norm, 0.0, False)
    assert mine.losses["a"] == pytest.approx(1.001, abs=1e-6)  # not rounded as the gradient is


def test_what_is_not_finite_stays_so():
    losses = {"a": torch.tensor(math.nan), "b": torch.tensor(1.0)}
    (mine,) = StepReports().exchange([losses], torch.tensor(math.inf), 0.0, False)
    assert math.isnan(mine.losses["a"])
    assert (mine.losses["b"], mine.norm) == (1.0, math.inf)


LOSSES = {0: {"a": 1.0, "b": 2.0}, 1: {"c": 30.0, "b": 20.0}}


def exchange_three_steps(rank, folder):
    """Write what came; the last step has a new name in rank 1."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    reports, steps = StepReports(), []
    with mock.patch.object(comm, "all_gather", wraps=comm.all_gather) as pickled:
        for number in range(3):
            losses = {name: torch.tensor(value) for name, value in LOSSES[rank].items()}
            if rank == 1 and number == 2:
                losses = {"new": torch.tensor(4.0), "c": losses["c"]}
            steps.append(reports.exchange([losses], torch.tensor(7.0), 0.5, rank == 1))
        (folder / f"rank{rank}.json").write_text(json.dumps([steps, pickled.call_count]))
    dist.destroy_process_group()


def test_two_processes_whose_losses_have_other_names(tmp_path):
    context = multiprocessing.get_context("fork")  # nothing is imported again
    processes = [context.Process(target=exchange_three_steps, args=(r, tmp_path)) for r in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        assert process.exitcode == 0
    first, second = (json.loads(p.read_text()) for p in sorted(tmp_path.glob("rank*.json")))
    assert first == second
    steps, pickled = first
    assert pickled == 2  # for the names of the first step, and for "new"
    of_first = [{"a": 1.0, "b": 2.0, "c": 0.0}, 7.0, 0.5, False]
    assert steps[0] == [of_first, [{"a": 0.0, "b": 20.0, "c": 30.0}, 7.0, 0.5, True]]
    assert steps[1] == steps[0]
    assert steps[2][0][0] == {"a": 1.0, "b": 2.0, "c": 0.0, "new": 0.0}
    assert steps[2][1][0] == {"a": 0.0, "b": 0.0, "c": 30.0, "new": 4.0}
