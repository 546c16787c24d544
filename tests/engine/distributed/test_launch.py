"""Runs of several processes: how they start, and how they all end when one fails."""

import argparse
import multiprocessing as mp
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from gn_det.config import ConfigError
from gn_det.engine.distributed import launch as launch_module
from gn_det.engine.distributed.launch import _start, _wait, launch
from gn_det.engine.distributed.network_interface import interface_to
from gn_det.engine.hooks.preemption import EXIT_PREEMPTED

TWO = ["--num-gpus", 2, "--dist-url", "auto"]
LONG = ("SOLVER.MAX_ITER", 1000, "SOLVER.CHECKPOINT_PERIOD", 5)


def arguments(**given):
    defaults = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    return argparse.Namespace(**{**defaults, **given})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_gpus": 0}, "--num-gpus is 0"),
        ({"num_machines": 2, "machine_rank": 2}, "--machine-rank is 2: .* 0 to 1"),
        ({"num_machines": 2}, "--dist-url auto is for one machine"),
        ({"dist_url": "tcp://somewhere"}, "--dist-url is tcp://somewhere; write tcp://HOST:PORT"),
    ],
)
def test_options_that_cannot_be(given, words):
    with pytest.raises(ConfigError, match=words):
        launch(lambda args: None, arguments(**given))


@pytest.fixture
def torchrun_worker(monkeypatch):
    """Make this process look like the one worker of a torchrun; return the calls for its group."""
    calls = []
    for key, value in {
        "TORCHELASTIC_RUN_ID": "run",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
    }.items():
        monkeypatch.setenv(key, value)
    dist = launch_module.dist
    monkeypatch.setattr(dist, "rendezvous", lambda *a, **k: iter([(dist.HashStore(), 0, 2)]))
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **k: calls.append(backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append("destroyed"))
    monkeypatch.setattr(launch_module.comm, "create_local_process_group", calls.append)
    monkeypatch.setattr(launch_module, "heartbeat_monitored", lambda *a: nullcontext())
    return calls


@pytest.mark.parametrize(("gpus", "backend"), [(0, "gloo"), (2, "nccl")])
def test_the_group_of_torchrun(torchrun_worker, monkeypatch, gpus, backend):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    # before the group: NCCL's communicators belong to the current GPU
    monkeypatch.setattr("torch.cuda.set_device", torchrun_worker.append)
    assert launch(lambda args: "done", arguments()) == "done"
    assert torchrun_worker == [*([0] if gpus else []), backend, 2, "destroyed"]


def test_a_worker_of_torchrun_that_fails_does_not_wait_for_the_others(torchrun_worker):
    # NCCL would, and the others wait for this one
    def fail(args):
        raise FloatingPointError("NaN")

    with pytest.raises(FloatingPointError):
        launch(fail, arguments())
    assert torchrun_worker == ["gloo", 2]


def test_more_workers_of_torchrun_than_gpus(torchrun_worker, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ConfigError, match="has started 2 processes.* machine has 1.*--nproc-per"):
        launch(lambda args: None, arguments())


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ConfigError, match="--num-gpus is 2, but this machine has 1"):
        launch(lambda args: None, arguments(num_gpus=2))


@pytest.mark.parametrize("given", [{}, {"NCCL_SOCKET_IFNAME": "ib0"}])
def test_network_interface_by_its_whole_name(monkeypatch, given):
    environ = dict(given)
    monkeypatch.setattr(os, "environ", environ)
    monkeypatch.setattr(launch_module, "interface_to", lambda host: "eth1")
    launch_module._set_network_interface("host")
    # NCCL takes "eth1" for eth10, too; what the user has set stays
    assert environ == {"GLOO_SOCKET_IFNAME": "eth1", "NCCL_SOCKET_IFNAME": "=eth1", **given}


def test_one_process_is_this_one():
    assert launch(lambda args: (os.getpid(), args.num_gpus), arguments()) == (os.getpid(), 1)


def test_interface():
    assert interface_to("127.0.0.1") == "lo" or sys.platform != "linux"
    assert interface_to("no.such.host.example") is None


def workers(process):
    """Return the processes of a run: those that were started by ``spawn``."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [
        int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")


@needs_proc
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_ends_the_run_and_is_named(
    start_training, wait_for_a_step, tmp_path, victim
):
    process = start_training(tmp_path / "run", *LONG, flags=TWO)
    wait_for_a_step(process)
    pids = workers(process)
    assert len(pids) == 2
    os.kill(pids[victim], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output[-3000:]
    assert f"error: rank {victim} (process {pids[victim]}) was ended by SIGKILL" in output
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@needs_proc
def test_a_rank_that_is_stopped_ends_the_run_and_is_named(
    start_training, wait_for_a_step, tmp_path, monkeypatch
):
    victim = 0  # rank 1 is cut off in test_two_machines
    monkeypatch.setenv("GN_DET_HEARTBEAT_TIMEOUT", "10")
    process = start_training(tmp_path / "run", *LONG, flags=TWO)
    wait_for_a_step(process)
    pids = workers(process)
    os.kill(pids[victim], signal.SIGSTOP)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 1, output[-3000:]
    assert f"error: rank {victim} has sent no heartbeat for 10 s" in output
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


class Ended:
    """A process that has ended."""

    def __init__(self, exitcode):
        self.exitcode = exitcode

    def is_alive(self):
        return self.alive_once and not setattr(self, "alive_once", False)

    alive_once = False


@pytest.mark.parametrize(
    ("statuses", "failed"),
    [([0, 0], None), ([75, 75], 0), ([0, 75], 1), ([75, 1], 1), ([1, 75], 0), ([75, -9], 1)],
)
def test_who_failed(monkeypatch, statuses, failed):
    monkeypatch.setattr("gn_det.engine.distributed.launch.wait", lambda sentinels, timeout: None)
    processes = {rank: Ended(status) for rank, status in enumerate(statuses)}
    for process in processes.values():
        process.sentinel, process.alive_once = None, True
    assert _wait(processes) == failed


class Saving:
    """Rank 0 of a run: it begins to save when it gets the signal, and ends with ``status``."""

    sentinel, exitcode, signalled, killed = None, None, None, False

    def __init__(self, clock, seconds, status):
        self.clock, self.seconds, self.status = clock, seconds, status

    def is_alive(self):
        if self.signalled is not None and self.clock[0] - self.signalled >= self.seconds:
            self.exitcode = self.status
        return self.exitcode is None

    def terminate(self):
        assert self.signalled is None
        self.signalled = self.clock[0]

    def kill(self):
        self.exitcode = -9


@pytest.mark.parametrize(
    ("seconds", "status", "failed", "ends_with"),
    [(60, EXIT_PREEMPTED, 0, EXIT_PREEMPTED), (60, 1, 0, 1), (10_000, EXIT_PREEMPTED, 0, -9)],
)
def test_rank_0_is_told_and_has_the_time_to_save(monkeypatch, seconds, status, failed, ends_with):
    clock = [0.0]

    def wait(sentinels, timeout):
        clock[0] += 1.0

    monkeypatch.setattr("gn_det.engine.distributed.launch.wait", wait)
    monkeypatch.setattr("gn_det.engine.distributed.launch.time.monotonic", lambda: clock[0])
    processes = {0: Saving(clock, seconds, status), 1: Ended(EXIT_PREEMPTED)}
    assert _wait(processes) == failed
    assert processes[failed].exitcode == ends_with


def test_one_that_is_deaf_is_no_failure_once_rank_0_has_saved(monkeypatch):
    clock = [0.0]

    def wait(sentinels, timeout):
        clock[0] += 1.0

    monkeypatch.setattr("gn_det.engine.distributed.launch.wait", wait)
    monkeypatch.setattr("gn_det.engine.distributed.launch.time.monotonic", lambda: clock[0])
    processes = {0: Ended(EXIT_PREEMPTED), 1: Saving(clock, 10_000, 0)}
    assert _wait(processes) == 0
    assert processes[1].exitcode == -9
    assert clock[0] < 30


def _say_much(local_rank, common, messages, parent):
    messages.put("x" * 100_000)  # more than a pipe holds
    os._exit(2)


def _be_killed_at_it(local_rank, common, messages, parent):
    if local_rank == 0:
        os.write(messages._writer.fileno(), b"\0\0\1\0half")
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(0)


@pytest.mark.parametrize(
    ("work", "status", "said"),
    [(_say_much, 2, "error: " + "x" * 100_000), (_be_killed_at_it, 1, "ended by SIGKILL")],
)
def test_messages_hold_nobody_up(monkeypatch, capsys, work, status, said):
    def too_long(number, frame):
        raise TimeoutError

    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    fork = mp.get_context("fork")
    monkeypatch.setattr("gn_det.engine.distributed.launch.mp.get_context", lambda method: fork)
    monkeypatch.setattr("gn_det.engine.distributed.launch._work", work)
    monkeypatch.setattr("gn_det.engine.distributed.launch.GRACE", 1.0)
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(20)
    try:
        with pytest.raises(SystemExit) as ended:
            _start(print, arguments(num_gpus=2), "file:///nothing")
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ended.value.code == status
    assert capsys.readouterr().err.count(said) == 1


def test_a_signal_reaches_all(start_training, wait_for_a_step, train_digits, tmp_path):
    folder = tmp_path / "run"
    process = start_training(folder, *LONG, flags=TWO)
    wait_for_a_step(process)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_PREEMPTED, output[-3000:]
    last = (folder / "last_checkpoint").read_text()
    done = int(last.removesuffix(".pth").rpartition("_")[2]) + 1
    final = train_digits(folder, *LONG, "SOLVER.MAX_ITER", done + 1, flags=[*TWO, "--resume"])
    assert final["iteration"] == done


def test_ctrl_c_reaches_all(start_training, wait_for_a_step, tmp_path):
    process = start_training(tmp_path, *LONG, flags=TWO)
    wait_for_a_step(process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130, output[-3000:]
    assert "Traceback" not in output
    (saved,) = tmp_path.glob("model_*.pth")
    assert output.count(f"{saved} is saved.") == 1
    assert output.count("Resume the run with --resume: python ") == 1


def test_an_expected_error_is_said_once(train_digits, tmp_path):
    output = train_digits(tmp_path, "MODEL.BACKBONE.FREEZE_AT", 2, flags=TWO, expect=2)
    assert output.count("error: MODEL.WEIGHTS is empty and MODEL.BACKBONE.FREEZE_AT is 2") == 1
    assert "Traceback" not in output


def torchrun(digits_command, free_port, folder, *keys, options=()):
    command = digits_command(folder, *keys)
    script = command[command.index("-W") + 2 :]
    # not --standalone: with PyTorch 2.3 that one cannot start workers again
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    start += ["--master-port", str(free_port)]
    return subprocess.run(
        [*start, *options, *script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_torchrun(digits_command, free_port, tmp_path):
    done = torchrun(digits_command, free_port, tmp_path / "run", "SOLVER.MAX_ITER", 2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "model_final.pth").exists()


def test_torchrun_starts_workers_again_and_the_run_goes_on(digits_command, free_port, tmp_path):
    # a rank ends itself once, in the middle of the run
    keys = ("SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 1)
    command_folder = tmp_path / "run"
    os.environ["DIE_AFTER"] = "3"
    try:
        done = torchrun(
            digits_command, free_port, command_folder, *keys, options=["--max-restarts", "1"]
        )
    finally:
        del os.environ["DIE_AFTER"]
    assert done.returncode == 0, done.stderr[-3000:]
    assert "continuing as with --resume" in done.stderr
    assert "Starting training from iteration 4" in (command_folder / "log.txt").read_text()
