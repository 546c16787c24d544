"""A run that is stopped and resumed ends with the weights of one that was never stopped."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from gn_det.checkpoint import resumable
from gn_det.engine import cpu_has_bfloat16
from gn_det.engine.hooks.preemption import EXIT_PREEMPTED

ITERATIONS = 12
LAST = f"model_{ITERATIONS - 1:07d}.pth"
RUN = ("SOLVER.MAX_ITER", ITERATIONS, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.KEEP_CHECKPOINTS", 3)
WAYS = {
    "fp32": (),
    "bf16, workers and average": (
        *("SOLVER.AMP.ENABLED", cpu_has_bfloat16() is not False, "SOLVER.AMP.DTYPE", "bfloat16"),
        *("DATALOADER.NUM_WORKERS", 2, "MODEL.GN.MEMORY", "lean"),
        *("SOLVER.EMA_DECAY", 0.8),
    ),
}


@pytest.fixture(scope="module", params=WAYS)
def way(request, train_digits, tmp_path_factory):
    """Options, final state, seconds and folder of the run that was never stopped."""
    options = (*RUN, *WAYS[request.param])
    start = time.monotonic()
    folder = tmp_path_factory.mktemp("whole") / "run"
    final = train_digits(folder, *options)
    return options, final, time.monotonic() - start, folder


only_fp32 = pytest.mark.parametrize("way", ["fp32"], indirect=True)


def assert_equal_states(a, b, path=""):
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert set(a) == set(b), path
        for key in a:
            assert_equal_states(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b)):
            assert_equal_states(x, y, f"{path}/{i}")
    else:
        assert a == b, path


def flags_of(folder):
    return ["--resume"] if resumable(folder) else []


def final_state(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)


def kill_and_resume(start_training, wait_for_a_step, way, folder, kills, seed):
    """Kill a run at random moments until it was killed ``kills`` times, then let it end.

    Returns:
        The number of kills that met it at work.
    """
    options, final, seconds, _ = way
    rng = random.Random(seed)
    killed = 0
    for _ in range(kills):
        process = start_training(folder, *options, flags=flags_of(folder))
        wait_for_a_step(process)
        time.sleep(rng.uniform(0, 0.3 * seconds))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        process.stdout.close()
        if (folder / LAST).exists():  # there is no step left to wait for
            break
    process = start_training(folder, *options, flags=flags_of(folder))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    assert_equal_states(final_state(folder), final)
    return killed


def test_killed_at_random_moments(start_training, wait_for_a_step, way, tmp_path):
    assert kill_and_resume(start_training, wait_for_a_step, way, tmp_path / "run", kills=2, seed=1)


@pytest.mark.soak
def test_killed_fifty_times(start_training, wait_for_a_step, way, tmp_path):
    killed = runs = 0
    while killed < 50:
        folder = tmp_path / f"run{runs}"
        killed += kill_and_resume(
            start_training, wait_for_a_step, way, folder, kills=50 - killed, seed=runs
        )
        shutil.rmtree(folder)  # 400 MB each
        runs += 1
    print(f"\n{killed} kills survived in {runs} runs, all of which ended with the same bits")


def test_killed_after_the_last_step(train_digits, way, tmp_path):
    options, final, _, whole = way
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "model_final.pth").unlink()
    (folder / "last_checkpoint").write_text(LAST)
    assert_equal_states(train_digits(folder, *options, flags=["--resume"]), final)


def test_a_signal_saves_and_stops(start_training, wait_for_a_step, way, tmp_path):
    options, final, *_ = way
    name = "SIGTERM" if options == RUN else "SIGUSR1"
    folder = tmp_path / "run"
    rare = ("SOLVER.CHECKPOINT_PERIOD", 1000)
    process = start_training(folder, *options, *rare)
    wait_for_a_step(process)
    process.send_signal(getattr(signal, name))
    output, _ = process.communicate(timeout=100)
    assert process.returncode == EXIT_PREEMPTED, output[-3000:]
    assert "Resume the run with --resume" in output
    (saved,) = folder.glob("model_*.pth")
    assert saved.name != "model_final.pth"
    process = start_training(folder, *options, flags=["--resume"])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    assert_equal_states(final_state(folder)["model"], final["model"])


@only_fp32
def test_a_damaged_checkpoint_is_named_and_skipped(train_digits, way, tmp_path):
    options, final, *_ = way
    folder = tmp_path / "run"
    train_digits(folder, *options)
    assert sorted(p.name for p in folder.glob("model_0*.pth")) == [
        f"model_{i:07d}.pth" for i in range(ITERATIONS - 3, ITERATIONS)
    ]
    for name in ("model_final.pth", LAST):
        damaged = bytearray((folder / name).read_bytes())
        damaged[len(damaged) // 2] ^= 4
        (folder / name).write_bytes(damaged)
    (folder / f"model_{ITERATIONS - 2:07d}.pth").write_bytes(b"")
    assert_equal_states(train_digits(folder, *options, flags=["--resume"])["model"], final["model"])
    log = (folder / "log.txt").read_text()
    for number in (ITERATIONS - 1, ITERATIONS - 2):
        assert f"model_{number:07d}.pth: it is" in log
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert lines[-1]["iteration"] == ITERATIONS - 1


@only_fp32
def test_none_that_is_whole_is_an_error(train_digits, way, tmp_path):
    options, *_ = way
    folder = Path(tmp_path) / "run"
    folder.mkdir()
    (folder / "model_0000003.pth").write_bytes(b"nothing")
    output = train_digits(folder, *options, flags=["--resume"], expect=2)
    assert "none of its 1 checkpoints can be resumed" in output
    assert "Traceback" not in output.splitlines()[-1]
    assert (folder / "model_0000003.pth").read_bytes() == b"nothing"
