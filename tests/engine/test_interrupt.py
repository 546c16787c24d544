import os
import signal
import subprocess
import sys
import time

import pytest

from gn_det.engine import exit_on_interrupt
from gn_det.engine.interrupt import postponed

WAITS = """
import signal, sys, time
from gn_det.engine.interrupt import exit_on_interrupt
with exit_on_interrupt():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaning up", flush=True)
        time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


def test_one_line_and_status_130(capsys):
    def work():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1.0)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended, exit_on_interrupt(), exit_on_interrupt():
        work()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "Stopped by Ctrl-C.\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_one_does_not_wait_for_the_cleaning_up():
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WAITS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cleaning up\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=50)
    assert process.returncode == 130
    assert error.strip() == "Stopped at once."


def test_a_forked_process_leaves_it_to_this_one():
    with exit_on_interrupt():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_ignored_it_stays(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with exit_on_interrupt():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_while_a_process_is_started_it_comes_again():
    """Python swallows an exception that a handler raises in the callbacks of a fork."""
    seen = []

    def handler(number, frame):
        if not postponed(number, frame):
            seen.append(time.monotonic())

    before = signal.signal(signal.SIGINT, handler)
    launch = {"__name__": "multiprocessing.popen_fork", "os": os, "signal": signal}
    exec("def _launch():\n    os.kill(os.getpid(), signal.SIGINT)", launch)
    try:
        start = time.monotonic()
        launch["_launch"]()
        assert not seen
        while not seen and time.monotonic() - start < 10:
            time.sleep(0.05)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(seen) == 1
