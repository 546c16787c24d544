import argparse
import errno
import logging
import os
import sys

import pytest

from gn_det.checkpoint import WeightsError
from gn_det.config import ConfigError
from gn_det.data import DatasetError
from gn_det.engine import NonFiniteError, exit_on_error, run
from gn_det.engine.errors import RunStopped, resume_command
from gn_det.engine.run_log import open_log_file
from gn_det.utils import SaveError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("a wrong key"), 2),
        (DatasetError("a wrong json"), 2),
        (WeightsError("a wrong file"), 2),
        (FileNotFoundError("no file"), 2),
        (SaveError("no room"), 1),
        (NonFiniteError(7, "NaN"), 1),
    ],
)
def test_expected_errors_are_one_line_and_a_status(error, status, capsys):
    with pytest.raises(SystemExit) as ended, exit_on_error():
        raise error
    assert ended.value.code == status
    assert capsys.readouterr().err == f"error: {error}\n"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, PermissionError])
def test_other_errors_pass(error, capsys):
    with pytest.raises(error), exit_on_error():
        raise error
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", [None, "metrics.json"])
def test_a_full_disk_is_one_line_whoever_wrote(name, capsys):
    with pytest.raises(SystemExit) as ended, exit_on_error():
        raise OSError(errno.ENOSPC, "No space left on device", name)
    assert ended.value.code == 1
    what = f"{name or 'A file'} could not be written: No space left on device."
    assert capsys.readouterr().err == f"error: {what} Free some space.\n"


@pytest.mark.parametrize("error", [ZeroDivisionError("by hand"), ConfigError("a wrong key")])
def test_the_log_has_the_error_that_ended_the_run(error, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a new process
    open_log_file(str(tmp_path))
    with pytest.raises((ZeroDivisionError, SystemExit)), exit_on_error(), exit_on_error():
        raise error
    log = (tmp_path / "log.txt").read_text("utf-8")
    assert log.count(f"ERROR: {error}") == (1 if isinstance(error, ConfigError) else 0)
    once = 1 if isinstance(error, ZeroDivisionError) else 0
    assert log.count("The run ended with ZeroDivisionError: by hand") == once
    assert log.count("Traceback") == once


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["/venv/bin/gn-det", "train", "--config", "a"], "gn-det train --resume --config a"),
        (["t/train_net.py", "--config", "a b"], "python t/train_net.py --resume --config 'a b'"),
        (["/x/gn_det/__main__.py", "train", "K", "1"], "python -m gn_det train --resume K 1"),
        (["train.py", "--config", "a", "--resume"], "python train.py --config a --resume"),
        (["/bin/mine", "K", "1"], "/bin/mine --resume K 1"),
    ],
)
def test_how_to_resume(words, command):
    assert resume_command(words) == command


@pytest.mark.parametrize("has_option", [True, False])
def test_a_run_that_was_stopped_says_how_to_resume_it(has_option, capsys, monkeypatch):
    def stop(args):
        raise RunStopped(130)

    monkeypatch.setattr(sys, "argv", ["mine.py", "K", "1"])
    args = argparse.Namespace(num_gpus=1, num_machines=1, machine_rank=0, dist_url="auto")
    if has_option:
        args.resume = False
    with pytest.raises(SystemExit) as ended, exit_on_error(has_option):
        run(stop, args)
    assert ended.value.code == 130
    said = capsys.readouterr().out
    assert said.count("Resume the run") == 1
    assert ("mine.py --resume K 1" in said) is has_option


def test_a_reader_that_is_gone_is_no_error(monkeypatch, capfd):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit) as ended, exit_on_error():
            print("a line that nobody reads")
    assert ended.value.code == 141
    assert capfd.readouterr().err == ""


def test_another_broken_pipe_is_an_error():
    with pytest.raises(BrokenPipeError), exit_on_error():
        raise BrokenPipeError
