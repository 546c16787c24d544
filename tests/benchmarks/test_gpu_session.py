import json
import sys
import time

import pytest

from benchmarks.gpu import session
from benchmarks.gpu.session import LOG, Section, Worker, read_rows

# functions of a section, which a new process imports
CODE = """
import os, time
def good(section):
    section.add("a", 1)
    print("said by a section")
def bad(section):
    good(section)
    with section.row("b") as row:
        row["so far"] = 2
        1 / 0
    raise RuntimeError("the section failed")
def dies(section):
    good(section)
    os._exit(3)
def hangs(section):
    good(section)
    time.sleep(600)
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "sections_of_test.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import sections_of_test

    yield sections_of_test
    del sys.modules["sections_of_test"]


def test_every_end_of_a_section(functions, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "GRACE", 0.0)
    path = tmp_path / "rows.json"

    def run(worker, function, seconds=60.0):
        error = worker.run(function, Section(path, True, time.monotonic() + seconds))
        return error, read_rows(path)

    worker = Worker(tmp_path / LOG)
    assert run(worker, functions.good) == ("", {"a": 1})
    error, rows = run(worker, functions.bad)
    assert error.strip().endswith("RuntimeError: the section failed")
    assert rows["a"] == 1
    assert rows["b"]["so far"] == 2
    assert "ZeroDivisionError" in rows["b"]["error"]
    assert worker.alive()
    assert run(worker, functions.dies) == ("its process died with exit code 3", {"a": 1})
    assert not worker.alive()

    worker = Worker(tmp_path / LOG)
    assert run(worker, functions.good)[0] == ""
    error, rows = run(worker, functions.hangs, seconds=1.0)
    assert error.startswith("stopped")
    assert rows == {"a": 1}
    assert not worker.alive()
    assert (tmp_path / LOG).read_text().count("said by a section") >= 3


def test_time_that_is_left(tmp_path):
    section = Section(tmp_path / "rows.json", True, time.monotonic() + 50)
    assert 40 < section.left() <= 50
    assert section.has_time("a", 30)
    assert not section.has_time("b", 60)
    assert list(json.loads(section.path.read_text())) == ["b"]
    assert "s were left" in section.rows["b"]["error"]


def test_a_gpu_that_is_lost(monkeypatch):
    def synchronize():
        raise RuntimeError("CUDA error: an illegal memory access\nand more")

    monkeypatch.setattr(session.torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(session.torch.cuda, "synchronize", synchronize)
    assert session._spoiled(False).endswith("process: CUDA error: an illegal memory access")


def test_kernels_that_were_turned_off(monkeypatch):
    assert session._spoiled(False) == ""
    monkeypatch.setattr(session.kernels, "why_not", lambda x: "stats failed")
    assert session._spoiled(True) == "The kernels were turned off in its process: stats failed"
    assert session._spoiled(False) == ""  # they never ran here


def test_an_error_costs_its_case_alone(tmp_path):
    section = Section(tmp_path / "rows.json", True, time.monotonic() + 50)
    with section.row("a") as row:
        with section.guard("a, case 1"):
            raise ValueError("wrong")
        row["case 2"] = 2
    assert section.rows["a"] == {"case 2": 2}
    assert "ValueError: wrong" in section.rows["a, case 1"]["error"]
