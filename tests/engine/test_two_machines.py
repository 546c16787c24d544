"""Two machines as Linux can play them: network namespaces, which only a cable connects.

Where none may be made, the two are one machine and its loopback.
"""

import os
import re
import shutil
import subprocess

import pytest

ADDRESSES = ("10.251.87.1", "10.251.87.2")
NAMES = [f"gn_det_{os.getpid()}_{rank}" for rank in (0, 1)]


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True)


def lay_cable():
    """Make both namespaces, each with a loopback and its end of the cable."""
    for name in NAMES:
        ip("netns", "add", name)
    ends = ["cable", "netns", NAMES[0]], ["cable", "netns", NAMES[1]]
    ip("link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
    for name, address in zip(NAMES, ADDRESSES):
        ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
        for device in ("lo", "cable"):
            ip("-n", name, "link", "set", device, "up")


@pytest.fixture
def machines():
    """Make two namespaces, and remove them in any case; ``[]`` where none can be made."""
    if shutil.which("ip") is None:
        yield []
        return
    try:
        try:
            lay_cable()
        except subprocess.CalledProcessError:
            yield []
        else:
            yield NAMES
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@pytest.fixture
def start_both(machines, start_training, free_port, tmp_path):
    """Return a function that starts a training on both machines, and returns the processes."""
    runs = []
    first = ADDRESSES[0] if machines else "127.0.0.1"

    def start(*keys):
        for rank in (0, 1):
            flags = ["--num-machines", 2, "--machine-rank", rank]
            flags += ["--dist-url", f"tcp://{first}:{free_port}"]
            within = ("ip", "netns", "exec", machines[rank]) if machines else ()
            runs.append(start_training(tmp_path / "run", *keys, flags=flags, within=within))
        return runs

    yield start
    for run in runs:
        run.kill()
        run.wait()
        run.stdout.close()


def test_a_cable_that_is_cut(start_both, machines, wait_for_a_step, monkeypatch):
    if not machines:
        pytest.skip("no network namespaces may be made here")
    monkeypatch.setenv("GN_DET_HEARTBEAT_TIMEOUT", "10")
    runs = start_both("SOLVER.MAX_ITER", 1000)
    for run in runs:
        wait_for_a_step(run)
    ip("-n", machines[1], "link", "set", "cable", "down")
    for run, lost in zip(runs, (1, 0)):
        output, _ = run.communicate(timeout=100)
        assert run.returncode == 1, output[-3000:]
        assert f"error: rank {lost} has sent no heartbeat for 10 s" in output


def test_they_train_together(start_both, tmp_path):
    weights = set()
    for run in start_both("SOLVER.MAX_ITER", 2):
        output, _ = run.communicate(timeout=200)
        assert run.returncode == 0, output[-3000:]
        assert "step 1" in output
        weights.add(re.search("^weights .*", output, re.MULTILINE)[0])
    assert len(weights) == 1, weights
    assert (tmp_path / "run" / "model_final.pth").exists()
