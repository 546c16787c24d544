"""What the screen shows and what log.txt has; a whole training in a terminal is at the end."""

import errno
import fcntl
import io
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import sysconfig
import termios
import warnings
from pathlib import Path

import pytest
from detectron2.utils import comm
from tqdm import tqdm

from gn_det.engine import hold_warnings, release_warnings, run_log, start_messages
from gn_det.engine.run_log import FILE_ONLY, open_log_file

ROOT = Path(__file__).parents[2]
ours, theirs = logging.getLogger("gn_det.a.part"), logging.getLogger("detectron2.a.part")


@pytest.fixture
def log(tmp_path):
    """Return a function that returns what ``log.txt`` has."""
    open_log_file(str(tmp_path))
    yield lambda: (tmp_path / "log.txt").read_text("utf-8")
    release_warnings()


def test_the_screen_has_what_a_person_reads_and_the_file_has_all(log, capsys):
    for logger in (ours, theirs):
        for level in ("debug", "info", "warning", "error"):
            getattr(logger, level)(f"{logger.name} {level}")
    out, err = capsys.readouterr()
    assert out == "gn_det.a.part info\n"
    shown = [f"{level}: {n} {level}" for n in (ours.name, theirs.name) for level in LEVELS]
    assert err.splitlines() == shown
    for logger in (ours, theirs):
        for level in ("debug", "info", "warning", "error"):
            assert log().count(f"{logger.name} {level}\n") == 1


LEVELS = ("warning", "error")


def test_verbose(tmp_path, capsys):
    open_log_file(str(tmp_path), verbose=True)
    theirs.info("of theirs")
    ours.debug("a detail")
    out = capsys.readouterr().out
    assert "of theirs\n" in out
    assert "a detail\n" in out
    open_log_file(str(tmp_path))


def test_one_process_speaks(log, capsys, monkeypatch):
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    ours.info("x")
    ours.warning("x")
    ours.error("of this rank alone")
    assert capsys.readouterr() == ("", "error: of this rank alone\n")


def test_a_file_for_each_rank(tmp_path, monkeypatch):
    monkeypatch.setattr(comm, "get_rank", lambda: 3)
    open_log_file(str(tmp_path))
    ours.info("of rank 3")
    assert "of rank 3" in (tmp_path / "log.txt.rank3").read_text()
    assert not (tmp_path / "log.txt").exists()


def test_warnings_wait_for_the_place_where_they_are_seen(log, capsys):
    hold_warnings()
    ours.warning("first")
    hold_warnings()  # again, as a command inside a command does
    ours.warning("second")
    ours.info("the set-up")
    assert capsys.readouterr() == ("the set-up\n", "")
    assert "first" in log()  # at its own time
    release_warnings()
    ours.warning("third")
    assert capsys.readouterr().err == "warning: first\nwarning: second\nwarning: third\n"
    release_warnings()
    assert capsys.readouterr().err == ""


def test_an_error_comes_after_the_warnings_before_it(log, capsys):
    hold_warnings()
    ours.warning("why")
    ours.error("what")
    assert capsys.readouterr().err == "warning: why\nerror: what\n"


def test_what_was_said_before_there_was_a_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a new process
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    start_messages()
    ours.warning("early")
    logging.getLogger("of_the_user").warning("theirs too")
    assert capsys.readouterr().err == "warning: early\nwarning: theirs too\n"
    open_log_file(str(tmp_path))
    text = (tmp_path / "log.txt").read_text()
    assert text.index("gn_det.a.part WARNING: early") < text.index("of_the_user WARNING: theirs")


def test_python_warnings(log, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = run_log._log_python_warning  # pytest has put its own there
        warnings.warn("by a user", UserWarning, stacklevel=1)
        file = os.path.join(sysconfig.get_path("purelib"), "torch", "functional.py")
        for installed in (file, "/usr/lib/python3/dist-packages/torch/functional.py"):
            warnings.warn_explicit("of torch", FutureWarning, installed, 1)
    err = capsys.readouterr().err
    assert "UserWarning: by a user" in err
    assert "of torch" not in err
    assert "UserWarning: by a user" in log()
    assert log().count("FutureWarning: of torch") == 2


@pytest.mark.parametrize(("verbose", "shown"), [(False, [0, 1, 4]), (True, [0, 1, 2, 3, 4])])
def test_a_long_evaluation_is_not_silent_and_not_loud(
    tmp_path, capsys, monkeypatch, verbose, shown
):
    open_log_file(str(tmp_path), verbose=verbose)
    (screen,) = [h for h in logging.getLogger().handlers if type(h).__name__ == "_Screen"]
    monkeypatch.setattr(screen, "_evaluation_line", 0.0)  # of an evaluation of another test
    for number, created in enumerate((1000.0, 1030.0, 1035.0, 1059.0, 1061.0)):
        record = logging.makeLogRecord(
            {"name": run_log.EVALUATION, "levelno": logging.INFO, "msg": f"line {number}"}
        )
        record.created = created
        screen.handle(record)
    out = capsys.readouterr().out
    assert [number for number in range(5) if f"line {number}\n" in out] == shown
    open_log_file(str(tmp_path))


def test_colours_stay_out(log, capsys):
    ours.info("\x1b[36ma table\x1b[0m")
    assert capsys.readouterr().out == "a table\n"
    assert "\x1b" not in log()


@pytest.mark.parametrize("name", ["\u732b", "caf\u00e9", "b\udcff.png"], ids=ascii)
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_name_can_be_printed_and_logged(log, monkeypatch, encoding, name):
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", screen)
    # what pytest captures goes through a pipe, which takes no half of a surrogate pair
    root = logging.getLogger()
    kept = [h for h in root.handlers if not type(h).__module__.startswith("_pytest")]
    monkeypatch.setattr(root, "handlers", kept)
    start_messages()
    print(name)
    ours.info(name)
    lines = screen.buffer.getvalue().decode(encoding).splitlines()
    assert len(lines) == 2
    assert lines[0] == lines[1] == name.encode(encoding, "backslashreplace").decode(encoding)
    assert name.encode("utf-8", "backslashreplace").decode() in log()


def test_a_screen_or_a_disk_that_is_gone_ends_nothing(log, monkeypatch, capsys):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(sys, "stdout", Gone())
    (file,) = [h for h in logging.getLogger().handlers if type(h).__name__ == "_LogFile"]
    monkeypatch.setattr(file, "stream", Full())
    ours.info("to nobody")
    assert capsys.readouterr().err == ""


def test_a_program_without_a_stdout(log, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    ours.info("to the file alone")
    assert capsys.readouterr().err == ""
    assert "to the file alone" in log()


def test_a_message_stands_above_the_bar(log, capsys):
    with tqdm(total=2, file=sys.stderr, ascii=True) as bar:
        bar.update()
        ours.warning("a message")
        ours.info("another one")
        bar.update()
    out, err = capsys.readouterr()
    assert out == "another one\n"
    assert re.search(r"(^|[\r\n]) *\r?warning: a message\n", err)
    assert err.count("a message") == 1


def test_handlers_of_detectron2s_own_set_up_go(tmp_path, capsys):
    theirs = logging.getLogger("detectron2")
    theirs.addHandler(logging.StreamHandler(sys.stdout))
    theirs.propagate = False
    open_log_file(str(tmp_path))
    theirs.warning("once")
    out, err = capsys.readouterr()
    assert (out + err).count("once") == 1
    assert (tmp_path / "log.txt").read_text().count("once") == 1


def test_extra_for_the_file(log, capsys):
    ours.error("shown in another way", extra=FILE_ONLY)
    assert capsys.readouterr() == ("", "")
    assert "shown in another way" in log()


@pytest.fixture
def in_a_terminal(digits_command, tmp_path):
    """Return a function that trains in a pseudo-terminal, and returns what stands in it."""

    def train(columns, *keys, flags=()):
        screen, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        process = subprocess.Popen(
            digits_command(tmp_path / "run", *keys, flags=flags),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        )
        os.close(terminal)
        text = b""
        while True:
            try:
                text += os.read(screen, 65536)
            except OSError:  # Linux's end of a terminal
                break
        os.close(screen)
        assert process.wait() == 0, text.decode()[-3000:]
        return text.decode()

    return train


@pytest.mark.parametrize(("columns", "bar"), [(80, True), (0, False)])
def test_a_training_in_a_terminal(in_a_terminal, tmp_path, columns, bar):
    shown = in_a_terminal(columns, "SOLVER.MAX_ITER", 2, "DATALOADER.NUM_WORKERS", 1)
    log = (tmp_path / "run" / "log.txt").read_text("utf-8")
    messages = ["Training mask_rcnn_R50_gn_all.yaml", "Trained for 2 iterations."]
    if "No GPU found" in log:
        messages.append("warning: No GPU found")
        assert shown.index("No GPU found") > shown.index("Training mask_rcnn")
        assert shown.index("No GPU found") < shown.index("step 0")
    lines = re.split(r"[\r\n]+", shown)
    for message in messages:
        (line,) = [line for line in lines if message in line]
        assert line.startswith(message)  # it is not glued to a bar
        assert log.count(message.removeprefix("warning: ")) == 1
    assert ("train: 100%" in shown) is bar
    assert ("total_loss: " in shown) is not bar
    assert log.count("total_loss: ") == 1
    assert len([line for line in lines if line.strip() and "train: " not in line]) < 20
